"""Limits on real processes: each is held by the means that the host names, says so at the end, and disturbs nobody."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import spindle_trio as spindle
from spindle_trio import ResourceLimits, RestartPolicy
from spindle_trio.launchers._local._limit_groups import LimitGroups

MIB = 1024 * 1024
GUARD_SECONDS = 60
LEVELS = ["pidns", "sweep", "cgroup", "killpg"]

ENTRY = '''
import os
import subprocess
import sys
import time

held = []


def grow(payload):
    """Take memory until somebody objects, a piece at a time."""
    while True:
        held.append(bytearray(os.urandom(4096)) * 256)


def grow_elsewhere(payload):
    """The same in processes of its own, each of which stays below the limit for longer."""
    code = "import os, time\\nheld = bytearray(os.urandom(4096)) * 256 * 30\\ntime.sleep(60)"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(20)]
    time.sleep(60)


def hold(payload):
    held.append(bytearray(os.urandom(4096)) * (payload // 4096))
    return len(held)


def fork(payload):
    """Start processes until that is refused."""
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    return "nobody objected"


def spin(payload):
    until = time.monotonic() + payload
    while time.monotonic() < until:
        pass
    return time.process_time()


def spin_elsewhere(payload):
    for _ in range(3):
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
    time.sleep(payload)


def open_files(payload):
    for _ in range(payload):
        held.append(open("/dev/null"))


def write_file(payload):
    with open(f"{os.getpid()}.out", "wb") as file:
        for _ in range(payload // 4096):
            file.write(bytes(4096))


def run(process):
    for handler in (grow, grow_elsewhere, hold, fork, spin, spin_elsewhere, open_files, write_file):
        process.on_call(handler.__name__, handler)
    process.ready()
    while True:
        process.sleep(60)
'''


@pytest.fixture
def root(tmp_path: Path, nothing_left: None) -> Path:
    (tmp_path / "hungry.py").write_text(ENTRY)
    return tmp_path


@pytest.fixture
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By which means the host holds memory and pids: `sampler` stands for a system without control groups."""
    if request.param == "sampler":
        monkeypatch.setattr(LimitGroups, "of_this_program", lambda **_: LimitGroups([]))
    return str(request.param)


by_each_means = pytest.mark.parametrize("means", ["cgroup", "sampler"], indirect=True)


@asynccontextmanager
async def a_worker(
    root: Path, *needed: str, means: str | None = None, level: str | None = None, **options: Any
) -> AsyncIterator[spindle.Worker]:
    """Open a host that holds these limits; without it the test is skipped, and says why."""
    launcher = spindle.ForkServerLauncher(preload=(), spares=1, containment=level)
    with trio.fail_after(GUARD_SECONDS):
        async with spindle.open_host(launcher, **options) as host:
            statistics = host.statistics()
            for name in needed:
                if name not in statistics.limit_means:
                    pytest.skip(f"no limit on {name} can be held here: {statistics.limit_problems.get(name)}")
                if means is not None and statistics.limit_means[name] != means:
                    pytest.skip(f"no {means} holds {name} here: {statistics.limit_problems.get(name)}")
            async with host.open_worker("tests", root=root, user_id="ada") as worker:
                yield worker


async def spawn(worker: spindle.Worker, **limits: Any) -> spindle.ProcessHandle:
    return await worker.backend_processes.spawn(
        "hungry.py", heartbeat_timeout=math.inf, resource_limits=ResourceLimits(**limits)
    )


async def driven_over(handle: spindle.ProcessHandle, method: str, payload: object = None) -> spindle.PostMortem:
    """Have a process do what ends it, and return what is said of its end."""
    with pytest.raises(spindle.ProcessLostError):
        await handle.call(method, payload)
    info = await handle.wait_ended()
    assert (info.state, info.exit_reason) == ("failed", "failed")
    assert handle.post_mortem is not None
    assert info.error is not None
    assert handle.post_mortem.limit is not None, info.error
    assert handle.post_mortem.limit in info.error
    return handle.post_mortem


@pytest.mark.quick(2)
@by_each_means
@pytest.mark.parametrize("attempt", range(20))
async def test_a_process_over_its_memory_limit_ends_with_that_reason_and_disturbs_nobody(
    root: Path, attempt: int, means: str
) -> None:
    async with a_worker(root, "memory", means=means) as worker:
        sibling, hungry = await spawn(worker, memory=100 * MIB), await spawn(worker, memory=100 * MIB)
        found = await driven_over(hungry, "grow")
        assert found.limit is not None
        assert found.limit.startswith("memory: ")
        assert found.limit.endswith(" used of 100 MiB")
        assert await sibling.call("hold", 4096) == 1
        assert sibling.state == "running"


@by_each_means
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.quick(2)
async def test_the_memory_of_the_whole_tree_counts(root: Path, means: str, level: str) -> None:
    async with a_worker(root, "memory", means=means, level=level) as worker:
        found = await driven_over(await spawn(worker, memory=150 * MIB), "grow_elsewhere")
        assert found.limit is not None
        assert found.limit.startswith("memory: ")


@pytest.mark.slow
@by_each_means
async def test_a_process_that_starts_too_many_is_stopped_by_its_limit(root: Path, means: str) -> None:
    async with a_worker(root, "pids", means=means) as worker:
        handle = await spawn(worker, pids=20)
        with pytest.raises((spindle.CallFailedError, spindle.ProcessLostError)) as caught:
            await handle.call("fork")
        if means == "sampler":
            assert isinstance(caught.value, spindle.ProcessLostError)
            await handle.wait_ended()
            assert handle.post_mortem is not None
            assert handle.post_mortem.limit is not None
            assert handle.post_mortem.limit.startswith("pids: ")
        else:
            assert isinstance(caught.value, spindle.CallFailedError)
            assert caught.value.error_type == "BlockingIOError"


@pytest.mark.parametrize("method", ["spin", "spin_elsewhere"])
async def test_a_process_over_its_processor_time_ends_with_that_reason(root: Path, method: str) -> None:
    """That of its tree counts as well."""
    async with a_worker(root, "cpu_seconds") as worker:
        found = await driven_over(await spawn(worker, cpu_seconds=1), method, 30)
        assert found.limit is not None
        assert found.limit.startswith("cpu_seconds: ")


@pytest.mark.slow
async def test_a_process_gets_no_more_than_its_share_of_the_processors(root: Path) -> None:
    async with a_worker(root, "cpus") as worker:
        handle = await spawn(worker, cpus=0.25)
        before = (await handle.usage()).processor_seconds
        await handle.call("spin", 2)
        after = (await handle.usage()).processor_seconds
        assert before is not None
        assert after is not None
        assert after - before < 1


@pytest.mark.parametrize(
    ("limits", "method", "payload", "number"),
    [({"open_files": 40}, "open_files", 60, 24), ({"file_bytes": 8192}, "write_file", 65_536, 27)],
    ids=["open files", "bytes of a file"],
)
async def test_a_call_of_the_system_over_a_limit_fails_in_the_process(
    root: Path, limits: dict[str, Any], method: str, payload: int, number: int
) -> None:
    async with a_worker(root, *limits) as worker:
        handle = await spawn(worker, **limits)
        with pytest.raises(spindle.CallFailedError, match=rf"\[Errno {number}\]"):
            await handle.call(method, payload)
        assert handle.state == "running"


async def test_the_figures_of_a_process_are_those_of_what_it_does(root: Path) -> None:
    async with a_worker(root, "memory") as worker:
        handle = await spawn(worker, memory=500 * MIB, cpu_seconds=30)
        before = await handle.usage()
        await handle.call("hold", 64 * MIB)
        await handle.call("spin", 0.2)
        after = await handle.usage()
        assert before.memory is not None
        assert after.memory is not None
        assert 60 * MIB < after.memory - before.memory < 80 * MIB
        assert after.pids is not None
        assert after.pids >= 1
        assert after.processor_seconds is not None
        assert after.processor_seconds > 0.1
        await handle.stop()
        assert handle.info.peak_memory is not None
        assert handle.info.peak_memory >= 60 * MIB
        assert handle.info.processor_seconds is not None
        assert handle.info.processor_seconds > 0.1


@pytest.mark.slow
async def test_a_service_that_leaks_is_started_again_gracefully(root: Path) -> None:
    async with a_worker(root, "memory") as worker:
        policy = RestartPolicy(stable_after=0.2)
        async with spindle.open_service(
            worker,
            "hungry.py",
            heartbeat_timeout=math.inf,
            restart=policy,
            restart_above=ResourceLimits(memory=120 * MIB),
            resource_limits=ResourceLimits(memory=500 * MIB),
        ) as service:
            await trio.sleep(0.3)
            await service.call("hold", 150 * MIB)
            while service.generation == 1:
                await trio.sleep(0.05)  # noqa: ASYNC110  # no event says when its memory was looked at
            await service.wait_running()
            assert (service.generation, service.failures) == (2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.quick(2)
async def test_a_process_without_limits_tells_what_it_had_used_as_well(root: Path, level: str) -> None:
    async with a_worker(root, level=level) as worker:
        handle = await worker.backend_processes.spawn("hungry.py", heartbeat_timeout=math.inf)
        await handle.call("hold", 64 * MIB)
        await handle.call("spin", 0.2)
        await handle.stop()
        assert handle.info.peak_memory is not None
        assert handle.info.peak_memory >= 64 * MIB
        assert handle.info.processor_seconds is not None
        assert handle.info.processor_seconds > 0.1
