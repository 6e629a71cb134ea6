"""Random callers of a random pool, in virtual time: who is called when, by rules that hold whatever happens.

A process never has two handlers at a time. There are never more processes than the pool may have. Each call begins once
at most, and ends once: by its answer if it had one, or an error that fits what was asked of it.
"""

from __future__ import annotations

import collections
import math
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from spindle_trio import (
    CallFailedError,
    CallTimeoutError,
    LifecycleEvent,
    Pool,
    ProcessLostError,
    Worker,
    open_host,
    open_pool,
)
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher

SECONDS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0])
"""Few, so that much happens at the same moment."""

GRACE = 0.5


@attrs.frozen
class Plan:
    """One call."""

    does: str
    """`answer` after a while, `cling` to it for a while when cancelled, `raise`, `die` of it, or `complete`."""
    seconds: float
    timeout: float
    patience: float
    """Seconds after which its caller is cancelled."""
    overrun: Any
    kind: str
    """`call` or `stream`."""


PLANS = st.builds(
    Plan,
    does=st.sampled_from(["answer", "answer", "answer", "cling", "raise", "die", "complete"]),
    seconds=SECONDS,
    timeout=st.sampled_from([0.1, 0.5, 1.0, math.inf, math.inf]),
    patience=st.sampled_from([0.1, 0.5, 1.0, math.inf, math.inf, math.inf]),
    overrun=st.sampled_from(["kill", "kill", "leave"]),
    kind=st.sampled_from(["call", "call", "stream"]),
)

POOLS = st.fixed_dictionaries(
    {
        "size": st.integers(1, 3),
        "prestart": st.booleans(),
        "max_calls": st.sampled_from([1, 2, 5, math.inf, math.inf]),
        "max_idle": st.sampled_from([0.5, 1.0, math.inf, math.inf]),
        "max_lifetime": st.sampled_from([1.0, 3.0, math.inf, math.inf]),
        "give_up_after": st.none(),
    }
)

LISTS = st.lists(st.lists(st.tuples(SECONDS, PLANS), max_size=6), min_size=1, max_size=5)
"""What each caller does, one after another, with pauses."""

STOPS = st.lists(st.tuples(SECONDS, st.integers(0, 5), st.booleans()), max_size=4)
"""Whom somebody else stops, after which pauses, and whether by a kill."""


class World:
    """Handlers and callers, and what they have seen."""

    def __init__(self) -> None:
        self.begun: collections.Counter[int] = collections.Counter()
        self.ends: dict[int, list[Any]] = collections.defaultdict(list)
        self.live: set[str] = set()
        self.most = 0
        self.stopped: set[str] = set()
        self.number = 0

    async def entry(self, process: ProcessContext) -> None:
        running = 0

        async def work(payload: Any) -> int:
            nonlocal running
            number, does, seconds = payload
            assert running == 0, "two handlers at a time"
            running += 1
            self.begun[number] += 1
            try:
                await trio.sleep(seconds)
                if does == "raise":
                    raise ValueError(number)
                if does in ("die", "complete"):
                    (process.fail if does == "die" else process.complete)(str(number))
                    await trio.sleep_forever()
            except trio.Cancelled:
                if does == "cling":
                    with trio.CancelScope(shield=True):
                        await trio.sleep(min(seconds, 1.0))
                raise
            finally:
                running -= 1
            return 2 * int(number)

        async def stream(payload: Any) -> Any:
            yield await work(payload)

        process.on_call("call", work)
        process.on_call("stream", stream)
        process.ready()

    def note(self, event: LifecycleEvent) -> None:
        (self.live.discard if event.state.is_terminal else self.live.add)(event.process_id)
        self.most = max(self.most, len(self.live))

    async def be_a_caller(self, pool: Pool, plans: list[tuple[float, Plan]], all_plans: dict[int, Plan]) -> None:
        for pause, plan in plans:
            await trio.sleep(pause)
            self.number += 1
            number = self.number
            all_plans[number] = plan
            end: Any = "cancelled"
            with trio.move_on_after(plan.patience):
                try:
                    end = await self.ask(pool, number, plan)
                except Exception as error:
                    end = error
            self.ends[number].append(end)

    async def ask(self, pool: Pool, number: int, plan: Plan) -> Any:
        payload = [number, plan.does, plan.seconds]
        if plan.kind == "call":
            return await pool.call("call", payload, timeout=plan.timeout, overrun=plan.overrun)
        async with pool.stream("stream", payload, timeout=plan.timeout, overrun=plan.overrun) as items:
            return await items.receive()

    async def stop(self, worker: Worker, stops: list[tuple[float, int, bool]]) -> None:
        for pause, which, is_kill in stops:
            await trio.sleep(pause)
            live = sorted(self.live)
            if live:
                self.stopped.add(live[which % len(live)])
                await worker.backend_processes.stop(live[which % len(live)], grace=0 if is_kill else None)

    def judge(self, plans: dict[int, Plan], *, was_disturbed: bool) -> None:
        for number, plan in plans.items():
            (end,) = self.ends[number]
            assert self.begun[number] <= 1
            match end:
                case int():
                    assert (end, self.begun[number]) == (2 * number, 1)
                    assert plan.does in ("answer", "cling")
                case CallFailedError():
                    assert (plan.does, end.text, self.begun[number]) == ("raise", str(number), 1)
                case ProcessLostError():
                    assert end.handed_over
                    assert plan.does in ("die", "complete") or was_disturbed, end
                case CallTimeoutError():
                    assert plan.timeout < math.inf
                case _:
                    assert end == "cancelled", end
                    assert plan.patience < math.inf


@pytest.mark.slow
@given(LISTS, POOLS, STOPS)
def test_whatever_happens_each_call_ends_once_and_no_process_has_two(
    lists: list[list[tuple[float, Plan]]], options: dict[str, Any], stops: list[tuple[float, int, bool]]
) -> None:
    world = World()
    plans: dict[int, Plan] = {}

    async def main() -> None:
        launcher = MemoryLauncher({"entry.py": world.entry})
        with trio.fail_after(3_000):
            async with (
                open_host(launcher, grace_period=GRACE, cancel_grace=GRACE) as host,
                host.open_worker("tests", user_id="ada") as worker,
            ):
                worker.backend_processes.on_lifecycle(world.note)
                async with open_pool(worker, "entry.py", **options) as pool:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(world.stop, worker, stops)
                        for each in lists:
                            nursery.start_soon(world.be_a_caller, pool, each, plans)
                    now = pool.statistics()
                    assert now.waiting == 0
                    assert now.starting + now.idle + now.busy + now.ending <= options["size"]
                    # Whatever was, it answers now.
                    assert await pool.call("call", [0, "answer", 0]) == 0
                assert world.live == set()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert world.most <= options["size"]
    world.judge(plans, was_disturbed=bool(world.stopped))
