"""Calls to a pool whose processes are killed, stopped and hung at random: each ends once, and nothing is left.

Each handler notes that it has begun, so that it is known afterwards how often each call was begun: never twice, and
exactly once where there is an answer. Only the choices come from the seed.
"""

from __future__ import annotations

import collections
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from spindle_trio import (
    CallFailedError,
    CallTimeoutError,
    Pool,
    PoolStatistics,
    ProcessLostError,
    open_host,
    open_pool,
)
from support.fork_server import wait_until
from support.leftovers import LAST_SECONDS, describe, open_descriptors
from support.reliability import ENTRIES, Neighbourhood, make_launcher

from .test_chaos import send_signal

CALLERS = 8
SIZE = 3
TIMEOUT_SECONDS = 0.4
CANCEL_GRACE = 0.1
LONGEST_PAUSE = 0.2
"""Between two acts of violence, in seconds."""

DEEDS = {"answer": 960, "hold": 10, "raise": 10, "exit": 10, "hang": 4, "count": 3, "sleep": 3}
"""What is asked of the handlers, and how often."""


class Chaos:
    """Calls one pool, torments its processes, and notes the end of each call."""

    def __init__(self, pool: Pool, dice: random.Random, calls: int) -> None:
        self.pool = pool
        self.dice = dice
        self.deeds = dice.choices(list(DEEDS), list(DEEDS.values()), k=calls)
        self.ends: dict[int, list[Any]] = collections.defaultdict(list)
        self.hits: collections.Counter[str] = collections.Counter()
        self._next = 0

    async def be_a_caller(self) -> None:
        while self._next < len(self.deeds):
            number, self._next = self._next, self._next + 1
            payload = {"number": number, "do": self.deeds[number]}
            is_impatient = self.dice.random() < 0.01
            with trio.move_on_after(self.dice.uniform(0, 0.02)) if is_impatient else trio.CancelScope() as scope:
                try:
                    self.ends[number].append(await self.pool.call("work", payload, timeout=TIMEOUT_SECONDS))
                except Exception as error:
                    self.ends[number].append(error)
            if scope.cancelled_caught:
                self.ends[number].append("cancelled")

    async def torment(self) -> None:
        while True:
            await trio.sleep(self.dice.uniform(0, LONGEST_PAUSE))
            pids = [member.handle.pid for member in self.pool._crew._members if member.ready_at is not None]
            if pids:
                how = self.dice.choice([signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
                self.hits[how.name] += 1
                send_signal(self.dice.choice(pids), how)

    def judge(self, begun: collections.Counter[int]) -> collections.Counter[str]:
        """Hold each end against what was asked; returns how often each kind of end was."""
        kinds: collections.Counter[str] = collections.Counter()
        for number, deed in enumerate(self.deeds):
            (end,) = self.ends[number]
            times = begun[number]
            match end:
                case int():
                    assert (end, times) == (2 * number, 1)
                    assert deed in ("answer", "hold")
                case CallFailedError():
                    assert (deed, end.text, times) == ("raise", str(number), 1)
                case ProcessLostError():
                    assert end.handed_over
                    assert times <= 1
                case _:
                    assert end == "cancelled" or isinstance(end, CallTimeoutError), end
                    assert times <= 1
            kinds[end if isinstance(end, str) else type(end).__name__] += 1
        return kinds


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param(200, id="quick"),
        pytest.param(4_000, id="ordinary", marks=pytest.mark.slow),
        pytest.param(20_000, id="soak", marks=pytest.mark.soak),
    ],
)
async def test_after_chaos_each_call_has_ended_once_and_nothing_is_left(level: str, tmp_path: Path, calls: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    root, notes = tmp_path / "entries", tmp_path / "begun"
    shutil.copytree(ENTRIES, root)
    launcher = make_launcher(level, spares=0)
    with trio.fail_after(60 + calls / 50):
        async with (
            open_host(launcher, grace_period=0.5, cancel_grace=CANCEL_GRACE) as host,
            host.open_worker("tests", root=root, user_id="ada") as worker,
        ):
            place = Neighbourhood(level, root, launcher, host, worker)
            before, there = len(open_descriptors()), len(place.marked())
            began = trio.current_time()
            async with open_pool(
                worker, "answers_calls.py", size=SIZE, give_up_after=None, payload=str(notes), heartbeat_timeout=2
            ) as pool:
                chaos = Chaos(pool, random.Random(seed), calls)
                async with trio.open_nursery() as tormentors:
                    tormentors.start_soon(chaos.torment)
                    async with trio.open_nursery() as callers:
                        for _ in range(CALLERS):
                            callers.start_soon(chaos.be_a_caller)
                    tormentors.cancel_scope.cancel()
                took = trio.current_time() - began
                now: PoolStatistics = pool.statistics()
            kinds = chaos.judge(collections.Counter(map(int, notes.read_text().split())))
            print(f"{calls} calls in {took:.1f} s: {dict(kinds)}; {dict(chaos.hits)}; {now}")
            assert kinds.total() == calls
            assert kinds["int"] > calls / 2, "hardly any call was answered"
            assert now.waiting == 0
            with trio.move_on_after(LAST_SECONDS):
                await wait_until(lambda: len(place.marked()) == there)
            assert len(place.marked()) == there, [describe(pid) for pid in place.marked()]
            assert await worker.backend_processes.list() == []
            assert len(open_descriptors()) == before
