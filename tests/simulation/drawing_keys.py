"""Draws by lot which keys are kept, taken over and given up, for a scenario that is drawn already."""

from __future__ import annotations

import math
import random

import attrs

from simulation.scenario import Act, AnyCommand, Moment, Part, ReleaseKey, Scenario, Spawn, Stop, kind_of

SHARE = 0.8
"""Of the scenarios without calls, in which keys are kept."""


def with_kept_keys(scenario: Scenario, chance: random.Random, grid: float) -> Scenario:
    """Add successors, releases and stops behind the commands of a scenario, if the lot has it so."""
    if chance.random() > SHARE:
        return scenario
    drawing = _Keys(chance, grid)
    commands = [drawing.keeping(command) for command in scenario.commands]
    keyed = [number for number, command in enumerate(commands) if isinstance(command, Spawn) and command.keep_key]
    for _ in range(chance.choice((0, 1, 1, 1, 2))):
        keyed.append(len(commands))
        commands.append(drawing.short_lived(chance.randrange(len(scenario.workers))))
    for _ in range(chance.choice((2, 3, 5, 8)) if keyed else 0):
        target = chance.choice(keyed[-3:])
        predecessor = commands[target]
        assert isinstance(predecessor, Spawn), "only spawns keep keys"
        match chance.choice(("succeed", "succeed", "succeed", "succeed", "succeed", "release", "stop")):
            case "succeed":
                keyed.append(len(commands))
                commands.append(drawing.successor(target, predecessor))
            case "release":
                commands.append(drawing.release(target, predecessor))
            case _:
                commands.append(drawing.stop(target, predecessor))
    return attrs.evolve(scenario, commands=tuple(commands))


@attrs.define
class _Keys:
    chance: random.Random
    grid: float

    def _time(self, least: float, most: float) -> float:
        return round(self.chance.uniform(least, most) / self.grid) * self.grid

    def keeping(self, command: AnyCommand) -> AnyCommand:
        """Have a spawn keep its key, or a stop leave it kept, if the lot has it so."""
        if isinstance(command, Spawn) and (command.key or "").strip():
            return attrs.evolve(command, keep_key=self.chance.random() < 0.7)
        if isinstance(command, Stop):
            return attrs.evolve(command, keep_key=self.chance.random() < 0.3)
        return command

    def _part(self) -> Part:
        """Draw a process that soon ends by itself, mostly after it was ready."""
        chance = self.chance
        acts = [Moment(self._time(0.0, 0.5), (Act("ready"),))] if chance.random() < 0.7 else []
        last = Act(chance.choice(("complete", "fail", "exit", "vanish", "speak nonsense")))
        exits = last.what in ("complete", "fail") and chance.random() < 0.6  # else it lingers
        acts.append(Moment(self._time(0.25, 1.5), (last, Act("exit")) if exits else (last,)))
        return Part(
            launch_seconds=chance.choice((0.0, 0.0, self._time(0.0, 0.5))),
            launch_fails=chance.random() < 0.05,
            plan=tuple(acts if chance.random() < 0.8 else acts[:1]),
            withstands_kill=chance.choice((0.0,) * 9 + (0.5, 1.75)),
        )

    def short_lived(self, worker: int) -> Spawn:
        """Draw a process to be succeeded."""
        return Spawn(
            worker=worker,
            at=self._time(0.25, 2.0),
            part=self._part(),
            kind="a",
            key=self.chance.choice(("a", "c", "c", "c")),
            user_id="ada",
            replace_existing=self.chance.random() < 0.5,
            keep_key=True,
        )

    def successor(self, target: int, predecessor: Spawn) -> Spawn:
        """Draw the next process, or one that would be."""
        chance = self.chance
        at = predecessor.at + self._time(0.0, 3.0)
        after = target if chance.random() < 0.7 else None
        return Spawn(
            worker=predecessor.worker,
            at=at,
            cancelled_at=at + self._time(0.5, 3.0) if chance.random() < 0.3 else math.inf,
            part=self._part(),
            kind=kind_of(predecessor, target) if chance.random() < 0.95 else "other",
            key=predecessor.key,
            user_id=predecessor.user_id if chance.random() < 0.9 else "ben",
            startup_timeout=chance.choice((0.25, 5.0, 5.0)),
            replace_existing=chance.random() < 0.2,
            keep_key=chance.random() < 0.8,
            successor_of=target,
            after_end_of=after,
            entry_exists=chance.random() < 0.95,
        )

    def release(self, target: int, predecessor: Spawn) -> ReleaseKey:
        """Draw a release of a key that may be kept by then."""
        user = self.chance.choice((None, None, " ada ", "ben"))
        return ReleaseKey(
            worker=predecessor.worker, at=predecessor.at + self._time(0.0, 4.0), target=target, user_id=user
        )

    def stop(self, target: int, predecessor: Spawn) -> Stop:
        """Draw a stop that may come too late."""
        return Stop(
            worker=predecessor.worker,
            at=predecessor.at + self._time(0.0, 3.0),
            target=target,
            grace=self.chance.choice((None, 0.0)),
            keep_key=self.chance.random() < 0.4,
        )
