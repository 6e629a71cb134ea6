"""Signals for children and for their server at random, in the midst of ordinary work: nothing is left, and nobody lies.

Several clients spawn, replace, send and stop, while somebody kills, crashes, stops and continues their processes, and
somebody else does the same to the fork server. Each process gets one signal at most that ends it, and none that was
asked to stop before, so that what it has to say of its end is known beforehand:

* who has got a signal says which, unless the server, who alone could tell, was disturbed just then;
* who has got none ends as it was asked to, or together with its server.

Only the choices come from the seed. When what happens is the system's affair, and so no run is like the other.
"""

from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from spindle_trio import LifecycleEvent, ProcessHandle, SpawnError
from support.fork_server import children_of, wait_until
from support.leftovers import LAST_SECONDS, MARK, describe, open_descriptors
from support.reliability import (
    KILLED,
    LEVELS,
    RARE_LEVELS,
    STRONG_LEVELS,
    Fate,
    Neighbourhood,
    neighbourhood,
    server_of,
)

SECONDS = 20 / len(set(LEVELS) - RARE_LEVELS)
"""For each level of containment that the ordinary run looks at."""

QUICK_SECONDS = 4
SOAK_SECONDS = 600

CLIENTS = 4
MOST = 12
"""How many processes the clients keep at a time, about."""

KEYS = ["one", "two", "three"]

FAMILY = "hostile/starts_others.py"

HEARTBEAT_SECONDS = 2.0
"""Patience of the watchdog: more than a process is ever stopped for that is to live on."""

PACE = 0.03
"""The longest pause of a client between two things, in seconds."""

SETTLE_SECONDS = 1.0
"""How long after a disturbance of the server an end may still have to do with it."""

NOT_LAUNCHED = (
    r"OSError: (the fork server \(pid \d+\) has ended; another one is started|the fork server .* has not .*"
    r"|the process has ended before it could be used)"
)
"""Errors of a process that never existed, or ended unused, since its server was gone."""

STARTUP_SECONDS = 3.0
"""Less than the longest pause before another server is started, if servers keep being killed."""

UNKNOWN = (
    r"(ended together with its fork server \(pid \d+\)|ended with an unknown status|killed by SIGKILL.*)"
    r",? without complete\(\) or fail\(\)"
)
"""Errors of an end that came with the server's, or that the server did not report."""


@attrs.define(eq=False)
class Case:
    """One process: what was done to it, and when."""

    entry: str
    key: str | None
    handle: ProcessHandle | None = None
    began_at: float = 0.0
    ended_at: float = 0.0
    deadly: signal.Signals | None = None
    """The signal that ends it."""
    hit_at: float = 0.0
    was_asked: bool = False
    """Whether it was asked to stop."""
    was_cancelled: bool = False
    """Whether its caller has been cancelled meanwhile."""
    was_written_to: bool = False
    is_stopped: bool = False
    """Whether it stands still, and will be continued."""

    @property
    def is_fair_game(self) -> bool:
        """Whether something may be done to it that ends it, so that it is known what it has to say."""
        return (
            self.handle is not None
            and self.handle.state == "running"
            and not (self.was_asked or self.deadly or self.is_stopped or self.is_about_to_complete)
        )

    @property
    def is_about_to_complete(self) -> bool:
        """Whether it has got the message at which it returns."""
        return self.was_written_to and self.entry == FAMILY

    @property
    def is_hit(self) -> bool:
        """Whether it has got a signal that it cannot outlive."""
        return self.deadly in (signal.SIGKILL, signal.SIGSEGV)


class Chaos:
    """Acts on one neighbourhood, and notes everything."""

    def __init__(self, place: Neighbourhood, dice: random.Random) -> None:
        self.place = place
        self.dice = dice
        self.cases: dict[str, Case] = {}
        self.live: dict[str, Case] = {}
        self.disturbances: list[tuple[float, float]] = []
        """From when to when the server was not itself."""
        self.refused: list[tuple[SpawnError, str | None, float, float]] = []
        """Spawns that have failed: how, for which key, from when to when."""
        place.worker.backend_processes.on_lifecycle(self._note)

    def _note(self, event: LifecycleEvent) -> None:
        if event.state == "starting":
            case = Case(event.entry, event.key, began_at=trio.current_time())
            self.cases[event.process_id] = self.live[event.process_id] = case
        if event.state.is_terminal:
            case = self.live.pop(event.process_id)
            case.ended_at, case.handle = trio.current_time(), None  # there are too many to keep them all

    # ---- ordinary work

    async def be_a_client(self) -> None:
        while True:
            await trio.sleep(self.dice.uniform(0, PACE))
            chance = self.dice.random()
            live = [case for case in self.live.values() if case.handle is not None]
            if len(live) < MOST / 2 or (chance < 0.4 and len(live) < MOST):
                await self.spawn()
            elif chance < 0.7:
                await self.write_to(self.dice.choice(live))
            elif chance < 0.8:
                await self.ask(self.dice.choice(live))

    async def spawn(self) -> None:
        lives = ["group", "session"] if self.place.level in STRONG_LEVELS else ["group"]
        entry, payload = self.dice.choice(
            [
                ("well_behaved", None),
                ("well_behaved_blocking", None),
                (FAMILY.removesuffix(".py"), {"lives": lives, "end": "waits"}),
            ]
        )
        key = self.dice.choice([None, *KEYS])
        seen, began_at = len(self.cases), trio.current_time()
        try:
            handle = await self.place.spawn(
                entry,
                payload=payload,
                key=key,
                kind="any",
                replace_existing=key is not None,
                heartbeat_timeout=HEARTBEAT_SECONDS,
                startup_timeout=STARTUP_SECONDS,
            )
        except SpawnError as error:
            self.refused.append((error, key, began_at, trio.current_time()))
        except trio.Cancelled:
            # One of those that have come since; the others have a handle, or will not need one.
            for case in list(self.cases.values())[seen:]:
                case.was_cancelled = True
            raise
        else:
            case = self.cases[handle.process_id]
            case.handle = None if case.ended_at else handle

    async def write_to(self, case: Case) -> None:
        assert case.handle is not None
        case.was_written_to = True
        try:
            case.handle.send_nowait("hello")
        except (trio.BrokenResourceError, trio.WouldBlock):
            pass

    async def ask(self, case: Case) -> None:
        if case.deadly is None:
            assert case.handle is not None
            case.was_asked = True
            await case.handle.stop()

    # ---- violence

    async def torment_children(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self.dice.uniform(0, 0.1))
                victims = [case for case in self.live.values() if case.is_fair_game]
                if victims:
                    nursery.start_soon(self.hit, self.dice.choice(victims))

    async def hit(self, case: Case) -> None:
        if case.handle is None or not case.is_fair_game:
            return  # something has happened to it before this task had its turn
        pid = case.handle.pid
        how = self.dice.choice(["kill", "crash", "stop", "stop for a moment", "continue"])
        number = {"kill": signal.SIGKILL, "crash": signal.SIGSEGV, "continue": signal.SIGCONT}.get(how, signal.SIGSTOP)
        if how in ("kill", "crash", "stop"):
            case.deadly, case.hit_at = number, trio.current_time()
        case.is_stopped = how == "stop for a moment"
        send_signal(pid, number)
        if case.is_stopped:
            try:
                await trio.sleep(self.dice.uniform(0, HEARTBEAT_SECONDS / 4))
            finally:
                send_signal(pid, signal.SIGCONT)
                case.is_stopped = False

    async def torment_server(self) -> None:
        while True:
            await trio.sleep(self.dice.uniform(0.5, 3))
            server = server_of(self.place.launcher)
            if server is None:
                continue
            began_at = trio.current_time()
            try:
                if self.dice.random() < 0.3:
                    send_signal(server, signal.SIGKILL)
                    await wait_until(lambda: server_of(self.place.launcher) not in (None, server))  # noqa: B023
                else:
                    send_signal(server, signal.SIGSTOP)
                    await trio.sleep(self.dice.uniform(0, 0.7))
            finally:
                send_signal(server, signal.SIGCONT)
                self.disturbances.append((began_at, trio.current_time()))

    # ---- judgement

    def was_disturbed(self, since: float, until: float) -> bool:
        """Whether the server was not itself at some time between these."""
        return any(begin <= until and since <= end + SETTLE_SECONDS for begin, end in self.disturbances)

    def judge(self) -> int:
        """Hold each end against what was done; returns how many have told the signal that they had got."""
        for error, key, began_at, ended_at in self.refused:
            assert key is not None or self.was_disturbed(began_at, ended_at), repr(error)
        return sum(self._judge_case(case, self.place.fates[process_id]) for process_id, case in self.cases.items())

    def _judge_case(self, case: Case, fate: Fate) -> bool:
        """Judge one process, and say whether it had to tell a signal and did."""
        assert [state for state in fate.states if state in ENDS] == fate.states[-1:], (case, fate.states)
        if case.entry.startswith("well_behaved"):
            counts = [payload["count"] for payload in fate.payloads]
            assert counts == list(range(1, len(counts) + 1)), case
        last, error = fate.events[-1], str(fate.events[-1].error).partition("\n")[0]  # the post-mortem follows
        was_replaced = case.key is not None and last.exit_reason == "replaced"
        is_known = not self.was_disturbed(case.hit_at or case.began_at, case.ended_at)
        if case.deadly is not None and case.is_hit and not was_replaced:
            told = KILLED if case.deadly is signal.SIGKILL else "killed by SIGSEGV"
            named = rf"{told} without complete\(\) or fail\(\)"
            assert last.state == "failed", (error, fate.states, case)
            assert re.fullmatch(named if is_known else f"{named}|{UNKNOWN}", error), (error, case)
            return is_known
        match last.state:
            case "timed_out" if "running" in fate.states:
                assert case.deadly is signal.SIGSTOP, case
            case "timed_out":
                assert error.startswith(f"not ready within {STARTUP_SECONDS:g} s"), (error, case)
                assert self.was_disturbed(case.began_at, case.ended_at), (error, case)
            case "completed":
                assert case.is_about_to_complete, case
            case "stopped":
                assert case.was_asked or case.was_cancelled or was_replaced, (error, case)
            case _:
                assert not is_known, (error, case)
                assert re.fullmatch(UNKNOWN if "running" in fate.states else f"{UNKNOWN}|{NOT_LAUNCHED}", error), (
                    case,
                    error,
                )
        return False


ENDS = {"stopped", "completed", "failed", "timed_out"}


def send_signal(pid: int | None, number: signal.Signals) -> None:
    """Signal a process of this test's; another one that may have got its number is left alone."""
    assert pid is not None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        mark = f"{MARK}={os.environ[MARK]}".encode()
        if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, FileNotFoundError):
        pass
    finally:
        os.close(pidfd)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(QUICK_SECONDS, id="quick"),
        pytest.param(SECONDS, id="ordinary", marks=pytest.mark.slow),
        pytest.param(SOAK_SECONDS, id="soak", marks=pytest.mark.soak),
    ],
)
async def test_after_chaos_nothing_is_left_and_each_end_was_told_for_what_it_was(
    level: str, tmp_path: Path, seconds: float
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    async with neighbourhood(level, tmp_path, neighbours=0, seconds=seconds + 60) as place:
        before, there = len(open_descriptors()), len(place.marked())
        server: Any = server_of(place.launcher)
        children = len(children_of(server))
        chaos = Chaos(place, random.Random(seed))
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    nursery.start_soon(chaos.be_a_client)
                nursery.start_soon(chaos.torment_children)
                nursery.start_soon(chaos.torment_server)
        # Who has been hit has still to say so.
        await wait_until(lambda: not any(case.is_hit for case in chaos.live.values()))
        for case in chaos.live.values():
            case.was_asked = True
        async with trio.open_nursery() as nursery:
            for info in await place.worker.backend_processes.list():
                nursery.start_soon(place.worker.backend_processes.stop, info.process_id)
        await wait_until(lambda: not chaos.live)
        told = chaos.judge()
        print(
            f"{len(chaos.cases)} processes, {len(chaos.disturbances)} disturbances of the server, {told} told signals"
        )
        assert told >= seconds / 2, "hardly anybody was hit while the server was itself"
        await wait_until(lambda: server_of(place.launcher) is not None)
        server = server_of(place.launcher)
        with trio.move_on_after(LAST_SECONDS):
            await wait_until(lambda: len(children_of(server)) == children and len(place.marked()) == there)
        assert len(children_of(server)) == children, "zombies"
        assert len(place.marked()) == there, [describe(pid) for pid in place.marked()]
        assert len(open_descriptors()) == before
        await place.settle(4)
