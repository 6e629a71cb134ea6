"""Limits hold whatever runs: fresh interpreters, Node, programs, and what each of them starts."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import pytest
import trio

import spindle_trio as spindle
from spindle_trio import Command, ResourceLimits
from support.javascript import needs_node

MIB = 1024 * 1024
GUARD_SECONDS = 60

GROWS = {
    "grows.py": """
import os
def run(process):
    process.ready()
    held = []
    while True:
        held.append(bytearray(os.urandom(4096)) * 256)
""",
    "grows.mjs": """
export function run(process) {
    process.ready();
    const held = [];
    for (;;) held.push(Buffer.alloc(1 << 20, "x"));
}
""",
}
GROWS_IN_PYTHON = "import os\nheld = []\nwhile True: held.append(bytearray(os.urandom(4096)) * 256)"


async def end_of(
    root: Path, launcher: spindle.Launcher | None, entry: str | Command, limits: ResourceLimits
) -> spindle.PostMortem:
    """Spawn what goes beyond a limit, and return what is said of its end."""
    with trio.fail_after(GUARD_SECONDS):
        async with (
            spindle.open_host(launcher) as host,
            host.open_worker("tests", root=root, user_id="ada") as worker,
        ):
            for name in limits.given():
                if name not in host.statistics().limit_means:
                    pytest.skip(f"no limit on {name} can be held here: {host.statistics().limit_problems.get(name)}")
            handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=math.inf, resource_limits=limits)
            info = await handle.wait_ended()
            assert (info.state, handle.post_mortem is None) == ("failed", False), info
            assert handle.post_mortem is not None
            return handle.post_mortem


@pytest.mark.parametrize(
    ("launcher", "name"),
    [
        pytest.param(spindle.PythonLauncher, "grows.py", id="python"),
        pytest.param(spindle.DefaultLauncher, "grows.py", id="forked"),
        pytest.param(spindle.DefaultLauncher, "grows.mjs", id="node", marks=needs_node),
    ],
)
async def test_an_entry_is_held_however_it_runs(
    tmp_path: Path, nothing_left: None, launcher: type[spindle.PythonLauncher], name: str
) -> None:
    (tmp_path / name).write_text(GROWS[name])
    found = await end_of(tmp_path, launcher(), name, ResourceLimits(memory=200 * MIB))
    assert found.limit is not None
    assert found.limit.startswith("memory: ")
    assert found.limit in found.error


@pytest.mark.slow
@pytest.mark.parametrize("is_daemon", [False, True])
async def test_a_program_and_what_it_has_left_behind_are_held(
    tmp_path: Path, nothing_left: None, is_daemon: bool
) -> None:
    argv = [sys.executable, "-c", GROWS_IN_PYTHON]
    if is_daemon:
        argv = ["sh", "-c", 'setsid "$@" & wait; sleep 600', "sh", *argv]
    found = await end_of(tmp_path, None, Command(argv), ResourceLimits(memory=200 * MIB))
    assert found.limit is not None
    assert found.limit.startswith("memory: ")


async def test_a_program_over_the_size_of_a_file_ends_by_the_signal_for_that(
    tmp_path: Path, nothing_left: None
) -> None:
    command = Command(["dd", "if=/dev/zero", "of=big", "bs=1M", "count=8"])
    found = await end_of(tmp_path, None, command, ResourceLimits(file_bytes=MIB))
    assert found.limit == "file_bytes: 1 MiB used of 1 MiB"


async def test_processes_with_limits_leave_no_groups(tmp_path: Path, nothing_left: None) -> None:
    (tmp_path / "grows.py").write_text(GROWS["grows.py"])
    await end_of(tmp_path, None, "grows.py", ResourceLimits(memory=100 * MIB, pids=50))
    assert groups() == set()


def groups() -> set[str]:
    """List the groups for limits that this program has."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    return {str(path) for mount in mounts for path in Path(mount).glob(f"**/spindle-trio-limits-{os.getpid()}-*")}
