"""Mutated frames: whatever a process writes, it is taken in or it is a breach of the protocol, and nothing else.

Each scenario comes from a seed, and each failure names it; `python tests/reliability/fuzz_wire.py --seed N` replays
one. The full figures run with ``pytest -m soak tests/reliability/test_wire.py``.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import LifecycleEvent, PeerProtocolError, ProcessMessage, SpawnError, Worker, open_host
from spindle_trio._protocol._control_frames import Stopped, parse_child_frame
from spindle_trio.testing import MemoryLauncher, ScriptedChild
from support.wire import BOUNDS, LIMITS, Lane, Scenario, Traffic, expected_frame, traffic
from support.wire_judge import judge, read_as_host
from support.wire_processes import BREACH, Outcome, WireLauncher, make_calls, play_in_memory

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def recorded() -> Traffic:
    return traffic()


def scenarios(lane: Lane, frames: int, recorded: Traffic, first_seed: int) -> Iterator[Scenario]:
    """Make scenarios until they have so many frames in all."""
    seed = first_seed
    while frames > 0:
        scenario = Scenario(seed, lane, recorded)
        yield scenario
        frames -= len(scenario.bodies)
        seed += 1


LANES: tuple[Lane, ...] = ("control", "messages", "calls")
FRAMES = 5_000
"""Frames of each lane in a part of the whole: 10 for the ordinary run."""
FEW_FRAMES = 1_500
"""The same for the quick suite: a beginning of the first part."""
PARTS = [
    pytest.param((0, FEW_FRAMES), id="few"),
    *[
        pytest.param((part, FRAMES), id=str(part), marks=pytest.mark.slow if part < 10 else pytest.mark.soak)
        for part in range(110)
    ],
]
NUMBERS = [
    150,
    pytest.param(400, marks=pytest.mark.slow),
    pytest.param(2_000, marks=pytest.mark.slow),
    pytest.param(20_000, marks=pytest.mark.soak),
]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("part", PARTS)
def test_mutated_frames_are_taken_in_or_break_the_protocol_and_nothing_else(
    recorded: Traffic, lane: Lane, part: tuple[int, int]
) -> None:
    number, frames = part
    found = Counter[str]()
    for scenario in scenarios(lane, frames, recorded, first_seed=number * FRAMES):  # which no part can use up
        found += judge(scenario)
    # Neither is the damage so slight that all is taken in, nor so great that nothing is looked at twice.
    assert found["taken in"] > frames / 4
    assert found["refused"] > frames / 4
    assert found["too long"] > frames / 2_000


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["messages", "calls"])
@pytest.mark.parametrize("count", [800, pytest.param(1_500, marks=pytest.mark.slow)])
def test_no_frame_costs_the_host_more_than_a_few_times_its_bound(recorded: Traffic, count: int, lane: Lane) -> None:
    """A megabyte of empty lists would become 24 MiB of objects: it is refused before (reliability, facts)."""
    worst, costliest = 0, ""
    gc.collect()
    tracemalloc.start()
    try:
        for scenario in itertools.islice(scenarios(lane, 10**9, recorded, first_seed=10**6), count):
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            read_as_host(scenario)
            _, peak = tracemalloc.get_traced_memory()
            if peak - before > worst:
                worst, costliest = peak - before, repr(scenario)
        gc.collect()
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert MEBIBYTE < worst < 16 * MEBIBYTE, f"{worst} bytes for {costliest}"
    assert left < MEBIBYTE, f"{left} bytes are held after all of it"


@pytest.mark.parametrize("processes", NUMBERS)
async def test_a_host_in_memory_ends_each_process_as_its_frames_deserve(
    recorded: Traffic, processes: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spindle_trio")
    children = [ScriptedChild() for _ in range(processes)]
    ends = Ends()
    async with (
        open_host(MemoryLauncher({"child": children}), max_processes=processes, limits=LIMITS) as host,
        host.open_worker("tests", root="/", user_id="ada") as worker,
    ):
        ends.listen(worker)
        for seed, child in enumerate(children):
            scenario = Scenario(seed, LANES[seed % 3], recorded)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends.spawn, worker, "child", scenario)
                await child.started()
                if scenario.lane == "calls":
                    child.ready(protocol=2, calls=True)
                    await trio.testing.wait_all_tasks_blocked()  # all calls have been made
                outcome = play_in_memory(scenario, child)
            await ends.check(str(child.facts.process_id), scenario, outcome)
    refuse_errors(caplog)
    assert ends.breaches > processes / 3


@pytest.mark.parametrize("processes", NUMBERS)
async def test_a_host_over_sockets_ends_each_process_as_its_bytes_deserve(
    recorded: Traffic, processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Headers lie, frames are cut off, and reads end anywhere."""
    caplog.set_level(logging.INFO, "spindle_trio")
    written = [Scenario(seed, LANES[seed // 2 % 3], recorded) for seed in range(processes)]
    launcher = WireLauncher(written)
    ends = Ends()
    at_once = 20
    descriptors = len(os.listdir("/proc/self/fd"))
    async with (
        open_host(launcher, max_processes=at_once, limits=LIMITS) as host,
        host.open_worker("tests", root="/", user_id="ada") as worker,
    ):
        ends.listen(worker)
        for _ in range(0, processes, at_once):
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(ends.spawn, worker, "child", launcher)
            for process_id, (scenario, outcome) in launcher.outcomes.items():
                await ends.check(process_id, scenario, outcome)
            launcher.outcomes.clear()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    refuse_errors(caplog)
    assert ends.breaches > processes / 3


@pytest.mark.parametrize(
    ("first", "is_read"),
    [("1e999", False), ('"\\ud800"', False), ('[{"\\ud800":1}]', False), ("9" * 30, True), ('"ready"', True)],
)
def test_of_a_name_that_comes_twice_the_last_value_counts_and_the_others_must_be_readable(
    first: str, is_read: bool
) -> None:
    """Host and judge agree on it: found by frame 204 703 of the control lane."""
    body = f'{{"type":{first},"type":"stopped","messages":3}}'.encode()
    for read in (lambda: parse_child_frame(body, BOUNDS), lambda: expected_frame(body)):
        if is_read:
            assert read() == Stopped(3)
        else:
            with pytest.raises((PeerProtocolError, ValueError)):
                read()


def test_the_script_replays_what_a_failure_names_and_says_what_it_needs_for_more() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, Path(__file__).with_name("fuzz_wire.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    replayed = run("--seed", "7")
    assert replayed.returncode == 0, replayed.stderr
    assert replayed.stdout.startswith("control 7 {")
    if find_spec("atheris") is None:
        refused = run()
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "pip install -e '.[fuzz]'" in refused.stderr


class Ends:
    """Compares the outcomes of processes with the expected ones."""

    def __init__(self) -> None:
        self.breaches = 0
        self._events: dict[str, list[LifecycleEvent]] = {}
        self._payloads: dict[str, list[object]] = {}
        self._calls: dict[str, dict[int, list[object]]] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def listen(self, worker: Worker) -> None:
        worker.backend_processes.on_lifecycle(self._note_event)
        worker.backend_processes.on_message(self._note_message)

    def _note_event(self, event: LifecycleEvent) -> None:
        self._events.setdefault(event.process_id, []).append(event)
        self._changed.unpark_all()

    def _note_message(self, message: ProcessMessage) -> None:
        self._payloads.setdefault(message.process_id, []).append(message.payload)

    async def spawn(self, worker: Worker, entry: str, plays: Scenario | WireLauncher) -> None:
        """Spawn one, and call it if its scenario is about calls; whether it becomes ready, its events tell."""
        try:
            handle = await worker.backend_processes.spawn(entry)
        except SpawnError:
            return
        scenario = plays if isinstance(plays, Scenario) else plays.outcomes[handle.process_id][0]
        if scenario.lane == "calls":
            self._calls[handle.process_id] = await make_calls(handle)

    async def check(self, process_id: str, scenario: Scenario, outcome: Outcome) -> None:
        """Wait for the end of a process, and hold it against what it should be."""
        with trio.fail_after(60):
            while process_id not in self._events or not self._events[process_id][-1].state.is_terminal:
                await self._changed.park()
        events, payloads = self._events.pop(process_id), self._payloads.pop(process_id, [])
        error = events[-1].error or ""
        states = [str(event.state) for event in events]
        wanted = ["starting", *(["running"] if outcome.is_ready else []), outcome.state]
        assert states == wanted, f"{states} ({error}), not {wanted}: {scenario!r}"
        assert (BREACH in error) == outcome.is_breach, f"{error!r}: {scenario!r}"
        assert error or outcome.state == "completed", f"a failure without a reason: {scenario!r}"
        assert payloads == outcome.payloads, f"other messages: {scenario!r}"
        calls = self._calls.pop(process_id, {})
        assert calls == outcome.calls, f"{calls}, not {outcome.calls}: {scenario!r}"
        self.breaches += outcome.is_breach


def refuse_errors(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that a process writes is the host's error; and what is logged of it can be written down."""
    for record in caplog.records:
        text = record.getMessage()
        assert record.levelno < logging.ERROR, text
        assert len(text) < 20_000
        text.encode()
