"""Draws scenarios by lot: the same number always gives the same one."""

from __future__ import annotations

import math
import random
import signal

import attrs

from simulation.drawing_calls import with_calls
from simulation.drawing_keys import with_kept_keys
from simulation.scenario import (
    Act,
    AnyCommand,
    Block,
    Get,
    List,
    Moment,
    Part,
    Scenario,
    Send,
    Spawn,
    Stop,
    Wait,
    WorkerPlan,
)

FINE, COARSE = 1 / 64, 0.5
"""On a fine grid hardly two things happen at once; on a coarse one many do."""

SHARE_OF_LIMITS = 0.2
"""Of the scenarios, in which some processes may run only for so long."""

USERS = (None, "ada", "ben")
NAMES = ("a", "a", "a", " a ", "b", None, "  ")
STATES = (None, None, "starting", "running", "stopping", "completed")


def draw(seed: int, *, extras: bool = True) -> Scenario:
    """Draw the scenario of this number; without extras it is the one from before there were calls and kept keys."""
    drawing = Drawing(random.Random(seed), random.Random(f"grace periods of {seed}"))
    scenario = drawing.scenario()
    if not extras:
        return scenario
    return _with_limits(_with_extras(scenario, seed, drawing.grid), random.Random(f"limits of {seed}"))


def _with_extras(scenario: Scenario, seed: int, grid: float) -> Scenario:
    called = with_calls(scenario, random.Random(f"calls of {seed}"), grid)
    if called is not scenario:
        return called  # with both there are too many orders to try, where all of it happens at one instant
    return with_kept_keys(scenario, random.Random(f"kept keys of {seed}"), grid)


def _with_limits(scenario: Scenario, chance: random.Random) -> Scenario:
    """Limit in some scenarios for how long some processes run."""
    if chance.random() > SHARE_OF_LIMITS:
        return scenario
    commands = tuple(
        attrs.evolve(command, run_seconds=chance.choice((0.5, 1.0, 2.5)))
        if isinstance(command, Spawn) and chance.random() < 0.5
        else command
        for command in scenario.commands
    )
    return attrs.evolve(scenario, commands=commands)


@attrs.define
class Drawing:
    """One drawing."""

    chance: random.Random
    graces: random.Random
    """Decides on grace periods alone, so that the scenarios of old are the same but for those."""
    grid: float = FINE
    horizon: float = 12.0

    def scenario(self) -> Scenario:
        chance = self.chance
        self.grid = COARSE if chance.random() < 0.3 else FINE
        self.horizon = chance.choice((4.0, 8.0, 12.0))
        workers = tuple(
            WorkerPlan(
                self._block(self.horizon * 0.6, self.horizon * 1.5),
                chance.choice((None, "ada", "ben")),
                chance.random() < 0.7,
            )
            for _ in range(chance.choice((1, 1, 2, 3)))
        )
        commands: list[AnyCommand] = []
        for _ in range(chance.randint(4, 18)):
            commands.append(self._command(commands, len(workers)))
        return Scenario(
            workers=workers,
            commands=tuple(commands),
            host=self._block(self.horizon * 0.75, self.horizon * 1.5),
            kills=tuple(self._time(0.0, self.horizon) for _ in range(chance.choice((0, 0, 0, 0, 1, 2)))),
            grace_period=chance.choice((0.0, 0.5, 1.0, 2.5)),
            max_processes=chance.choice((2, 3, 16, 16)),
            inbox_messages=chance.choice((2, 3, 16)),
        )

    def _time(self, least: float, most: float) -> float:
        return round(self.chance.uniform(least, most) / self.grid) * self.grid

    def _block(self, least: float, most: float) -> Block:
        return Block(self._time(least, most), self.chance.choice(("return", "error", "cancel")))

    def _grace(self) -> float | None:
        return self.graces.choice((None, None, None, 0.0, 0.5, 3.0))

    # Commands.

    def _command(self, before: list[AnyCommand], workers: int) -> AnyCommand:
        chance = self.chance
        spawns = [number for number, command in enumerate(before) if isinstance(command, Spawn)]
        if not spawns or chance.random() < 0.4:
            return self._spawn(spawns, before, workers)
        target = chance.choice(spawns)
        # Mostly of the worker to which the process belongs; to others it is unknown.
        worker = before[target].worker if chance.random() < 0.95 else chance.randrange(workers)
        at = self._time(0.25, self.horizon)
        if chance.random() < 0.8:  # soon after it has been asked for
            at = before[target].at + self._time(0.0, 3.0)
        cancelled_at = at + self._time(0.0, 2.0) if chance.random() < 0.2 else math.inf
        user = chance.choice(USERS) if chance.random() < 0.3 else None
        match chance.choice(("stop", "stop", "stop", "send", "send", "list", "get", "wait", "wait")):
            case "stop":
                reason = chance.choice((None, "", "enough"))
                user = f" {user} " if user and chance.random() < 0.5 else user
                return Stop(
                    worker=worker,
                    at=at,
                    cancelled_at=cancelled_at,
                    target=target,
                    user_id=user,
                    reason=reason,
                    grace=self._grace(),
                )
            case "send":
                return Send(worker=worker, at=at, cancelled_at=cancelled_at, target=target, user_id=user)
            case "list":
                kind, key = chance.choice((None, "a", "b")), chance.choice((None, None, "a"))
                return List(worker=worker, at=at, user_id=user, kind=kind, key=key, state=chance.choice(STATES))
            case "get":
                return Get(worker=worker, at=at, cancelled_at=cancelled_at, target=target)
            case _:
                return Wait(worker=worker, at=at, cancelled_at=cancelled_at, target=target)

    def _spawn(self, spawns: list[int], before: list[AnyCommand], workers: int) -> Spawn:
        chance = self.chance
        at = self._time(0.25, self.horizon * 0.75)
        worker = chance.randrange(workers)
        after = None
        if spawns and chance.random() < 0.1:
            after = chance.choice(spawns)
            worker = before[after].worker
        if spawns and chance.random() < 0.4:  # two at about one time
            at = before[chance.choice(spawns)].at + self._time(0.0, 1.0)
        heartbeat_timeout = chance.choice((1.0, 2.0, math.inf))
        return Spawn(
            worker=worker,
            at=at,
            cancelled_at=at + self._time(0.0, 4.0) if chance.random() < 0.2 else math.inf,
            part=self._part(heartbeat_timeout),
            kind=chance.choice(("a", "a", "b", None)),
            key=chance.choice(NAMES),
            user_id=chance.choice(USERS) if chance.random() < 0.2 else "ada",
            startup_timeout=chance.choice((0.625, 1.25, 5.0, 5.0)),
            heartbeat_timeout=heartbeat_timeout,
            replace_existing=chance.random() < 0.5,
            grace_period=self._grace(),
            replace_grace=self._grace(),
            after_end_of=after,
            entry_exists=chance.random() < 0.98,
        )

    # Parts.

    def _part(self, heartbeat_timeout: float) -> Part:
        chance = self.chance
        launch_seconds = chance.choice((0.0, 0.0, 0.0, 0.0, self._time(0.0, 0.5), self._time(0.0, 6.0)))
        is_stubborn = launch_seconds <= 0.5 and chance.random() < 0.2
        return Part(
            launch_seconds=launch_seconds,
            launch_fails=chance.random() < 0.05,
            is_launched_regardless=is_stubborn,
            plan=self._plan(heartbeat_timeout),
            at_stop=self._at_stop(),
            withstands_kill=0.0 if is_stubborn or chance.random() < 0.85 else chance.choice((0.5, 1.0, 1.75, 4.0)),
            has_pid=chance.random() < 0.4,
        )

    def _plan(self, heartbeat_timeout: float) -> tuple[Moment, ...]:
        """Become ready, or not; beat, until that stops; send; and then something, or nothing."""
        chance = self.chance
        moments: list[Moment] = []
        ready_at = self._time(0.0, 1.0)
        if chance.random() < 0.9:
            moments.append(self._moment(ready_at, "ready"))
        if heartbeat_timeout < math.inf and chance.random() < 0.8:
            beat = chance.choice(("beat", "beat", "heartbeat"))
            step = chance.choice((0.5, 0.75, 1.0)) * heartbeat_timeout
            count = chance.randint(0, 9)
            moments += [Moment(ready_at + step * (turn + 1), (Act(beat),)) for turn in range(count)]
        for _ in range(chance.choice((0, 0, 1, 2))):
            moments.append(Moment(self._time(0.0, 4.0), (Act("send", chance.randint(1, 5)),)))
        if chance.random() < 0.6:
            moments.append(self._moment(self._time(0.0, 5.0), self._last_word()))
            if chance.random() < 0.5:
                moments.append(self._moment(moments[-1].after + self._time(0.0, 1.0), self._last_word()))
        return tuple(moments)

    def _at_stop(self) -> tuple[Moment, ...] | None:
        chance = self.chance
        if chance.random() < 0.25:
            return None
        first = self._moment(self._time(0.0, 1.5), self._last_word() if chance.random() < 0.6 else "stopped")
        if chance.random() < 0.6:
            return first, Moment(first.after + self._time(0.0, 0.5), (self._exit(),))
        return (first,)

    def _last_word(self) -> str:
        words = (
            "complete",
            "complete",
            "fail",
            "exit",
            "exit",
            "exiting",
            "stopped",
            "speak nonsense",
            "send nonsense",
        )
        return self.chance.choice((*words, "close control", "ready"))

    def _moment(self, after: float, what: str) -> Moment:
        """Do this at last, perhaps with other things right before it, and perhaps exit right after it."""
        chance = self.chance
        act = self._exit() if what == "exit" else Act(what, chance.randint(0, 3) if what in VALUED else 0)
        acts = [act]
        if chance.random() < 0.2:
            acts.insert(0, Act("send", chance.randint(1, 4)))
        if chance.random() < 0.1:
            acts.insert(0, Act("ready"))
        if chance.random() < 0.2:
            acts.append(Act("send", chance.randint(1, 2)))
        if chance.random() < 0.2:
            acts.append(self._exit())
        return Moment(after, tuple(acts[: 1 + next((i for i, act in enumerate(acts) if act.what in EXITS), 99)]))

    def _exit(self) -> Act:
        what = self.chance.choice(EXITS)
        return Act(what, {"exit": self.chance.choice((0, 3)), "die of a signal": int(signal.SIGSEGV)}.get(what, 0))


EXITS = ("exit", "die of a signal", "vanish")
VALUED = ("complete", "fail", "exiting")
