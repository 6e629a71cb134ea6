"""Draws calls by lot, for a scenario that is drawn already: they come on top of it, and have a lot of their own.

So a scenario of old is the same as ever but for its calls, and those that get none are the same altogether.
"""

from __future__ import annotations

import math
import random

import attrs

from simulation.scenario import Act, AnyCommand, Call, Handler, Moment, Part, Scenario, Spawn, Stop, Stream, WaitIdle

SHARE = 0.6
"""Of the scenarios, that get calls."""

LAST_WORDS = ("answer", "answer", "answer", "raise", "refuse", "say cancelled")
MISHAPS = (
    *("answer nobody", "answer nonsense", "close calls", "close calls", "item", "end"),
    *("exit", "vanish", "complete", "fail", "close control", "send"),
)


def with_calls(scenario: Scenario, chance: random.Random, grid: float) -> Scenario:
    """Add calls behind the commands of a scenario, if the lot has it so."""
    spawns = [number for number, command in enumerate(scenario.commands) if isinstance(command, Spawn)]
    if chance.random() > SHARE or not spawns:
        return scenario
    drawing = _Calls(chance, grid)
    commands = [drawing.taking(command) if isinstance(command, Spawn) else command for command in scenario.commands]
    favourite = chance.choice(spawns)  # has several at once
    if chance.random() < 0.8:  # and mostly is there for that alone, and for stops
        favourite = len(commands)
        commands.append(drawing.callee(chance.randrange(len(scenario.workers))))
        for _ in range(chance.choice((0, 0, 1))):
            commands.append(drawing.stop(favourite, commands[favourite]))
    for _ in range(chance.choice((1, 2, 3, 5, 8))):
        target = favourite if chance.random() < 0.7 else chance.choice(spawns)
        commands.append(drawing.call(target, commands[target], len(scenario.workers)))
    if chance.random() < 0.15:
        commands += drawing.queue(favourite, commands[favourite])
    if commands[favourite].part.call_room is not None:
        commands += drawing.crowd(favourite, commands[favourite])
    for _ in range(chance.choice((0, 0, 1))):
        commands.append(drawing.wait_idle(favourite, commands[favourite]))
    cancel_grace, is_narrow = chance.choice((0.25, 0.5, 1.0, 2.0)), chance.random() < 0.5
    return attrs.evolve(scenario, commands=tuple(commands), cancel_grace=cancel_grace, is_narrow=is_narrow)


@attrs.define
class _Calls:
    chance: random.Random
    grid: float

    def _time(self, least: float, most: float) -> float:
        return round(self.chance.uniform(least, most) / self.grid) * self.grid

    def callee(self, worker: int) -> Spawn:
        """Draw a process that gets ready and lives for a while."""
        chance = self.chance
        plan = [Moment(self._time(0.0, 0.5), (Act("ready"),))]
        heartbeat_timeout = math.inf
        if chance.random() < 0.2:
            heartbeat_timeout = 1.0
            plan += [Moment(plan[0].after + turn, (Act("beat"),)) for turn in range(1, chance.randint(1, 5))]
        if chance.random() < 0.3:
            last = Act(chance.choice(("complete", "complete", "fail", "exit", "vanish")))
            plan.append(Moment(self._time(1.0, 4.0), (last, Act("exit")) if last.what == "fail" else (last,)))
        at_stop = Moment(self._time(0.0, 2.0), (Act("stopped"), Act("exit")))
        part = Part(
            launch_seconds=chance.choice((0.0, 0.0, self._time(0.0, 1.0))),
            plan=tuple(plan),
            at_stop=chance.choice(((at_stop,), (at_stop,), None)),
            withstands_kill=chance.choice((0.0,) * 7 + (0.5, 1.0, 1.75)),
            has_pid=chance.random() < 0.3,
            call_room=1 if chance.random() < 0.08 else None,
        )
        at = self._time(0.0, 1.5)
        cancelled_at = at + self._time(0.0, 1.0) if chance.random() < 0.05 else math.inf
        spawn = Spawn(
            worker=worker,
            at=at,
            cancelled_at=cancelled_at,
            part=part,
            user_id="ada",
            heartbeat_timeout=heartbeat_timeout,
            grace_period=chance.choice((None, 0.0, 0.5, 1.0, 3.0)),
        )
        return self.taking(spawn)

    def stop(self, target: int, spawn: AnyCommand) -> Stop:
        grace = self.chance.choice((None, None, 0.0, 0.5))
        return Stop(worker=spawn.worker, at=spawn.at + self._time(0.0, 4.0), target=target, grace=grace)

    def wait_idle(self, target: int, spawn: AnyCommand) -> WaitIdle:
        at = spawn.at + self._time(0.0, 3.0)
        cancelled_at = at + self._time(0.0, 2.0) if self.chance.random() < 0.2 else math.inf
        return WaitIdle(worker=spawn.worker, at=at, cancelled_at=cancelled_at, target=target)

    def taking(self, spawn: Spawn) -> Spawn:
        """Decide when a process takes calls, and which frames about no call it sends."""
        chance = self.chance
        calls = chance.choice(("ready",) * 7 + ("later", "later", "protocol 1"))
        plan = spawn.part.plan
        if calls == "later" or chance.random() < 0.05:
            after = self._time(0.0, 2.0) + (1.0 if chance.random() < 0.7 else 0.0)  # mostly, it is ready by then
            plan = (*plan, Moment(after, (Act("take calls", chance.choice((0, 0, 1, 2))),)))
        if chance.random() < 0.08:
            what = chance.choice(("answer nobody", "answer nonsense", "close calls", "close calls"))
            plan = (*plan, Moment(self._time(0.5, 3.0), (Act(what),)))
        concurrency = chance.choice((None, None, 1, 2))
        return attrs.evolve(spawn, part=attrs.evolve(spawn.part, calls=calls, plan=plan, concurrency=concurrency))

    def call(self, target: int, spawn: AnyCommand, workers: int) -> Call:
        chance = self.chance
        at = spawn.at + self._time(0.0, chance.choice((1.0, 3.0)))
        timeout = chance.choice((math.inf, math.inf, max(self.grid, self._time(0.0, 2.0)), 0.5))
        cancelled_at = at + self._time(0.0, 2.0) if chance.random() < 0.35 else math.inf
        call = Call(
            worker=spawn.worker if chance.random() < 0.97 else chance.randrange(workers),
            at=at,
            cancelled_at=cancelled_at,
            target=target,
            timeout=timeout,
            kills=chance.random() < 0.4,
            is_cancelled_by_hand=chance.random() < 0.5,
            handler=Handler(self._plan(timeout, cancelled_at - at), self._at_cancel()),
        )
        return self._stream(call) if chance.random() < 0.4 else call

    def queue(self, target: int, spawn: AnyCommand) -> list[Call]:
        """Draw calls that come together, and whose handlers give up late or never."""
        at = spawn.at + self._time(0.5, 1.0)
        return [
            Call(
                worker=spawn.worker,
                at=at,
                target=target,
                timeout=0.5,
                kills=self.chance.random() < 0.7,
                handler=Handler((), (Moment(self._time(0.0, 1.0), (Act("say cancelled"),)),) if ends else None),
            )
            for ends in (self.chance.random() < 0.7, self.chance.random() < 0.3, self.chance.random() < 0.3)
        ]

    def crowd(self, target: int, spawn: AnyCommand) -> list[AnyCommand]:
        """Draw calls for which there is no room, and a stop."""
        at = spawn.at + self._time(0.5, 1.5)
        stop = Stop(worker=spawn.worker, at=at + self._time(0.0, 2.0), target=target)
        return [*(Call(worker=spawn.worker, at=at, target=target) for _ in range(4)), stop]

    def _stream(self, call: Call) -> Stream:
        """Make a stream of a call: items first, and then mostly an end where an answer would be."""
        chance = self.chance
        after, moments = 0.0, []
        for _ in range(chance.randint(0, 4)):
            after += chance.choice((0.0, self._time(0.0, 0.5), self._time(0.0, 1.0)))
            what = "push" if chance.random() < 0.1 else "item"
            moments.append(Moment(after, (Act(what),) * chance.choice((1, 1, 2, 3))))
        last = [
            attrs.evolve(moment, after=after + moment.after, acts=tuple(map(self._ending, moment.acts)))
            for moment in call.handler.plan
        ]
        at_cancel = call.handler.at_cancel
        if at_cancel is not None:
            at_cancel = tuple(attrs.evolve(moment, acts=tuple(map(self._ending, moment.acts))) for moment in at_cancel)
        reads = tuple(chance.choice((0.0, 0.0, self._time(0.0, 1.0))) for _ in range(chance.choice((0, 2, 4, 9, 9))))
        fields = {field.name: getattr(call, field.name) for field in attrs.fields(Call)}
        if chance.random() < 0.15:  # its reader is away when its time is over, of which its handler knows
            fields.update(timeout=0.5, cancelled_at=math.inf, kills=True)
            reads = (0.0, 3.0, 0.0)
            last = [Moment(0.5, (Act("say cancelled"),))] if chance.random() < 0.5 else last
        fields["handler"] = Handler((*moments, *last), at_cancel)
        return Stream(**fields, window=chance.choice((1, 2, 3, 16)), reads=reads)

    def _ending(self, act: Act) -> Act:
        return Act("end") if act.what == "answer" and self.chance.random() < 0.97 else act

    def _plan(self, *ends: float) -> tuple[Moment, ...]:
        """Answer at once, later, at the very end of its time, or never; and then perhaps once more."""
        chance = self.chance
        if chance.random() < 0.25:
            return ()
        times = (0.0, 0.0, self._time(0.0, 1.0), self._time(0.0, 4.0), min(*ends, 3.0))
        return self._words(chance.choice(times), 0.1)

    def _at_cancel(self) -> tuple[Moment, ...] | None:
        chance = self.chance
        if chance.random() < 0.3:
            return None
        if chance.random() < 0.1:
            return ()
        what = "say cancelled" if chance.random() < 0.6 else chance.choice(LAST_WORDS)
        moments = (Moment(chance.choice((0.0, self._time(0.0, 0.5), self._time(0.0, 2.5))), (Act(what),)),)
        return moments if chance.random() < 0.9 else self._words(moments[0].after, 0.3)

    def _words(self, after: float, mishaps: float) -> tuple[Moment, ...]:
        chance = self.chance
        acts = [Act(chance.choice(LAST_WORDS))]
        if chance.random() < mishaps:
            acts.append(Act(chance.choice(("exit", "exit", "vanish", "complete", "close control"))))
        elif chance.random() < mishaps:
            what = chance.choice(MISHAPS)
            acts.insert(chance.choice((0, 1)), Act(what, int(what == "send")))
            if acts[0].what in ("exit", "vanish"):
                del acts[1:]
        if chance.random() < mishaps / 4:
            return Moment(after, tuple(acts)), Moment(after + self._time(0.0, 1.0), (Act("answer"),))
        return (Moment(after, tuple(acts)),)
