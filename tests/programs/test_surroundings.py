"""Programs by other launchers, in sandboxes, and after the end of their host."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from spindle_trio import READ_ONLY, Containment, PythonLauncher
from support.containment import levels, require, run_program
from support.fork_server import fork_host, wait_state_of
from support.programs import python_program, spawn_command

pytestmark = pytest.mark.usefixtures("no_survivors")

NOTIFIES = """
import os, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ready", ["started", "notify"])
async def test_a_fresh_interpreter_can_be_the_shim(tmp_path: Path, ready: Any) -> None:
    launcher: Any = PythonLauncher(spares=0)
    async with fork_host(tmp_path, launcher=launcher) as forked:
        argv = python_program(tmp_path, NOTIFIES)
        options: dict[str, Any] = {"heartbeat_timeout": math.inf}
        if ready == "started":
            argv = ["sleep", "1000"]
        handle = await spawn_command(forked, argv, ready=ready, **options)
        await handle.stop()
    assert handle.state == "stopped"


async def test_a_program_in_a_sandbox_may_notify(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        try:
            handle = await spawn_command(
                forked,
                ["/usr/bin/env", "python3", "-SEc", NOTIFIES],
                ready="notify",
                heartbeat_timeout=math.inf,
                sandbox=READ_ONLY,
                environment={"PATH": "/usr/bin:/bin"},
            )
        except RuntimeError as error:
            pytest.skip(str(error))
        await handle.stop()
    assert handle.state == "stopped"


async def test_an_entry_loads_nothing_of_the_shim_where_commands_run_too(tmp_path: Path) -> None:
    source = """
    import sys
    async def run(process):
        process.ready()
        return [name for name in sys.modules if name.startswith("spindle_trio.program")]
    """
    async with fork_host(tmp_path, preload=("trio",), spares=1) as forked:
        await forked.wait_spares(1)
        assert await forked.result(source) == []
        handle = await spawn_command(forked, ["true"])
        assert (await handle.wait_ended()).state == "completed"


async def test_arguments_and_variables_may_be_no_utf_8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"x\xff")
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(
            forked, ["sh", "-c", 'printf "%s %s" "$1" "$ODD" > out', "sh", odd], variables={"ODD": odd}
        )
        assert (await handle.wait_ended()).state == "completed"
    assert (tmp_path / "out").read_bytes() == b"x\xff x\xff"


async def test_the_kernel_ends_a_program_with_its_shim_whoever_else_is_gone(tmp_path: Path) -> None:
    source = """
    import ctypes
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0)  # PR_GET_PDEATHSIG
    open("out", "w").write(str(number.value))
    """
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, python_program(tmp_path, source))
        assert (await handle.wait_ended()).state == "completed"
    assert int((tmp_path / "out").read_text()) == signal.SIGKILL


HOST = """
import sys, trio
from spindle_trio import Command, DefaultLauncher, Line, open_host

async def main():
    line = "trap '' HUP INT TERM; echo $$ > pid; mv pid written; echo up; while :; do sleep 1; done"
    async with (
        open_host(DefaultLauncher(containment=sys.argv[1])) as host,
        host.open_worker("tests", root=sys.argv[2], user_id="ada") as worker,
    ):
        handle = await worker.backend_processes.spawn(Command(["sh", "-c", line], ready=Line("up")))
        print(handle.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.slow
@levels(*reversed(Containment))
async def test_a_program_ends_with_its_host(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    (tmp_path / "host.py").write_text(HOST)
    argv = [sys.executable, str(tmp_path / "host.py"), str(level), str(tmp_path)]
    host = await trio.lowlevel.open_process(argv, stdout=subprocess.PIPE)
    assert host.stdout is not None
    shim = int(await host.stdout.receive_some())
    children = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
    host.send_signal(signal.SIGKILL)
    await host.wait()
    await host.stdout.aclose()
    for pid in (shim, *map(int, children)):
        await wait_state_of(pid, None)
    assert children


AS_ANOTHER = """
import math, os, sys, trio
from pathlib import Path
from spindle_trio import Command, DefaultLauncher, open_host

NOTIFIES = '''
import os, socket, stat, sys
path = os.environ["NOTIFY_SOCKET"]
folder = os.stat(os.path.dirname(path))
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(f"STATUS={oct(folder.st_mode & 0o777)} {folder.st_uid}\\\\nREADY=1".encode(), path)
sys.stdin.read()
os._exit(int(os.environ["CODE"]))
'''

async def main():
    async with open_host(DefaultLauncher()) as host, host.open_worker("tests", root="/", user_id="ada") as worker:
        for code in "0", "3":
            handle = await worker.backend_processes.spawn(
                Command([sys.executable, "-SEc", NOTIFIES], ready="notify", environment={"CODE": code}),
                heartbeat_timeout=math.inf,
            )
            info = await handle.wait_ended()
            print(info.state, info.error, info.status)

trio.run(main)
"""


@pytest.mark.slow
async def test_an_ordinary_user_has_all_of_it(tmp_path: Path) -> None:
    said = await trio.to_thread.run_sync(lambda: run_program(tmp_path, AS_ANOTHER, as_nobody=True))
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    assert said.splitlines() == [f"completed None 0o700 {user}", f"failed exited with code 3 0o700 {user}"]
