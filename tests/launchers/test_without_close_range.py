"""Without `close_range(2)`: old kernels, filters, and interpreters that were built without it.

`os.closerange` then becomes a loop, which a number beyond all keeps busy for minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spindle_trio import Containment
from support.containment import levels, problem_with, run_program
from support.seccomp import ERRORS, refusing

HOST = """
import os, sys, trio
import spindle_trio as spindle

async def main(level):
    launcher = spindle.ForkServerLauncher(preload=(), spares=0, containment=level)
    with trio.fail_after(10):
        async with spindle.open_host(launcher) as host, host.open_worker("w", root=sys.argv[1]) as worker:
            handle = await worker.backend_processes.spawn("entry.py", user_id="ada")
            await handle.wait_ended()
            print(handle.state, handle.result)

trio.run(main, {level!r})
"""

ENTRY = """
import os
def run(process):
    process.ready()
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))[:3]
"""


@pytest.mark.quick(3)
@levels()
@pytest.mark.parametrize("error", ERRORS)
def test_a_host_opens_and_a_process_completes_without_it(tmp_path: Path, level: Containment, error: str) -> None:
    problem = problem_with(level)
    if problem is not None:
        pytest.skip(f"level {level}: {problem}")
    (tmp_path / "entry.py").write_text(ENTRY)
    said = run_program(tmp_path, HOST.format(level=str(level)), before=refusing("close_range", ERRORS[error]))
    assert said == "completed [0, 1, 2]\n"


CLOSES = """
import os, resource, sys
from spindle_trio._linux import _descriptors

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
kept, closed = os.open("/", os.O_RDONLY), os.open("/", os.O_RDONLY)
beyond = os.dup2(closed, 200)
if sys.argv[1] == "no proc":
    os.listdir = lambda path: os.scandir("/nowhere")
_descriptors.close_all_but((kept,), first=3)
for fd in (1, kept, closed, beyond):
    try:
        os.fstat(fd)
        print("open", end=" ")
    except OSError:
        print("closed", end=" ")
"""


@pytest.mark.parametrize("surroundings", ["proc", "no proc"])
def test_all_but_what_is_kept_is_closed_with_and_without_a_list(surroundings: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSES, surroundings],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.split() == ["open", "open", "closed", "closed"]
