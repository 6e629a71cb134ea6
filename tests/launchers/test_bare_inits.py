"""Inits at level `pidns` share the root's memory; where that does not work, the root forks them."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from pathlib import Path

import pytest
import trio

from spindle_trio import Containment
from spindle_trio.fork_server._bare_inits import BareInits
from support.containment import problem_with, require, run_program
from support.fork_server import WAITS, children_of, fork_host, state_of, wait_state_of, wait_until
from support.seccomp import ERRORS, refusing, refusing_namespaces_of_clones

pytestmark = [
    pytest.mark.usefixtures("no_survivors"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="inits are forked on this machine"),
]

KCMP, KCMP_VM = 312, 1
LIBRARY = ctypes.CDLL(None, use_errno=True)


def root_of(server: int) -> int:
    return int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])


def inits_of(server: int) -> list[int]:
    return [pid for pid in children_of(root_of(server)) if pid != server]


def share_memory(one: int, other: int) -> bool:
    result: int = LIBRARY.syscall(KCMP, one, other, KCMP_VM, 0, 0)
    if result < 0:
        pytest.skip(f"kcmp: {os.strerror(ctypes.get_errno())}")
    return result == 0


async def test_an_init_shares_the_roots_memory_and_has_no_descriptor(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.PIDNS)
    async with fork_host(tmp_path, containment=Containment.PIDNS) as forked:
        await forked.spawn(WAITS)
        inits = inits_of(forked.server_pid)
        assert inits
        for init in inits:
            assert share_memory(root_of(forked.server_pid), init)
            await wait_state_of(init, "S")
            await wait_until(lambda init=init: not os.listdir(f"/proc/{init}/fd"))
            assert Path(f"/proc/{init}/comm").read_text() == "spindle init\n"
            assert os.getsid(init) == init


async def test_only_a_kill_ends_an_init(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.PIDNS)
    async with fork_host(tmp_path, containment=Containment.PIDNS) as forked:
        handle = await forked.spawn(WAITS)
        root, inits = root_of(forked.server_pid), inits_of(forked.server_pid)
        for pid in (root, *inits):
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
                os.kill(pid, number)
        for pid in inits:
            for number in (signal.SIGUSR1, signal.SIGABRT, signal.SIGSEGV):
                os.kill(pid, number)
            os.kill(pid, signal.SIGSTOP)
            await wait_state_of(pid, "T")
            os.kill(pid, signal.SIGCONT)
            await wait_state_of(pid, "S")
        await handle.send("end")
        assert (await handle.wait_ended()).state == "completed"


LEAVES_AN_ORPHAN = """
import os
def run(process):
    process.ready()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        orphan = os.fork()
        if orphan:
            os.write(tell, b"%d" % orphan)
        os._exit(0)
    os.waitpid(child, 0)
    orphan = int(os.read(told, 20))
    try:
        while True:
            process.send(open(f"/proc/{orphan}/stat").read())
    except OSError:  # there is no such process, or no longer
        return "reaped"
"""


async def test_an_orphan_that_ends_leaves_no_zombie(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.PIDNS)
    async with fork_host(tmp_path, containment=Containment.PIDNS, seconds=5) as forked:
        assert await forked.result(LEAVES_AN_ORPHAN) == "reaped"


async def test_inits_end_with_a_root_that_is_killed(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require, Containment.PIDNS)
    async with fork_host(tmp_path, containment=Containment.PIDNS) as forked:
        handle = await forked.spawn(WAITS)
        root, inits = root_of(forked.server_pid), inits_of(forked.server_pid)
        os.kill(root, signal.SIGKILL)
        assert (await handle.wait_ended()).state == "failed"
        await wait_until(lambda: [state_of(pid) for pid in inits] == [None] * len(inits))


TELLS_WHO_SHARES = """
import ctypes, sys, trio
import spindle_trio as spindle
libc = ctypes.CDLL(None, use_errno=True)
async def main(folder):
    launcher = spindle.ForkServerLauncher(preload=(), spares=0, containment="pidns")
    async with (
        spindle.open_host(launcher) as host,
        host.open_worker("w", root=folder, user_id="ada") as worker,
    ):
        for _ in range(6):
            handle = await worker.backend_processes.spawn("entry.py")
            await handle.wait_ended()
            assert handle.state == "completed", handle.info
        server = launcher.server_pid
        root = open(f"/proc/{server}/stat").read().rpartition(")")[2].split()[1]
        children = map(int, open(f"/proc/{root}/task/{root}/children").read().split())
        shares = {libc.syscall(312, int(root), pid, 1, 0, 0) == 0 for pid in children if pid != server}
        print(handle.result, host.statistics().containment_problems, shares)
trio.run(main, sys.argv[1])
"""

COMPARES = """
import os
def run(process):
    process.ready()
    return [os.getpid() >= 300, os.readlink("/proc/self") == str(os.getpid()), os.listdir("/proc/1/fd")]
"""

REACHES_FOR_ITS_INIT = """
import os
def run(process):
    process.ready()
    return [os.listdir("/proc/1/fd"), attempt(open, "/proc/1/mem", "rb"), attempt(open, "/proc/1/maps")]
def attempt(call, *arguments):
    try:
        return repr(call(*arguments))
    except PermissionError:
        return "denied"
"""


@pytest.mark.slow
def test_an_entry_without_privileges_cannot_reach_the_memory_that_inits_share(tmp_path: Path) -> None:
    if problem_with(Containment.PIDNS) is not None:
        pytest.skip("no namespaces")
    (tmp_path / "entry.py").write_text(REACHES_FOR_ITS_INIT)
    result = run_program(tmp_path, TELLS_WHO_SHARES, as_nobody=True)
    assert result == "[[], 'denied', 'denied'] {} {True}\n"


REFUSALS = {
    "nothing": ("", True),
    "close_range": (refusing("close_range", ERRORS["ENOSYS"]), False),
    "clone": (refusing_namespaces_of_clones(), False),
}


@pytest.mark.slow
@pytest.mark.parametrize("refused", REFUSALS)
def test_where_a_system_refuses_what_it_takes_inits_are_forked(tmp_path: Path, refused: str) -> None:
    if problem_with(Containment.PIDNS) is not None or os.geteuid() != 0:
        pytest.skip("only a superuser can make these surroundings")
    before, shares = REFUSALS[refused]
    (tmp_path / "entry.py").write_text(COMPARES)
    assert run_program(tmp_path, TELLS_WHO_SHARES, before=before) == f"[True, True, []] {{}} {{{shares}}}\n"


MAKES_ONE = """
import os, signal
from spindle_trio.fork_server import _bare_inits
settings = []
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
descriptors = os.listdir("/proc/self/fd")
try:
    print(_bare_inits.BareInits(b"one", has_own_proc=True).make(1, settings))
except OSError as error:
    print(error)
print(os.listdir("/proc/self/fd") == descriptors)
try:
    while os.waitpid(-1, 0):
        pass
except ChildProcessError:
    print("none is left")
"""


@pytest.mark.parametrize("refused", ["mount", "nothing"])
def test_an_init_that_could_not_mount_is_none(tmp_path: Path, refused: str) -> None:
    if problem_with(Containment.PIDNS) is not None or os.geteuid() != 0:
        pytest.skip("only a superuser can make these surroundings")
    program, before = MAKES_ONE, refusing("mount", ERRORS["EPERM"])
    if refused == "nothing":  # so that the other case fails for its reason alone
        program, before = MAKES_ONE.replace("print(_bare", "os.kill(_bare").replace("settings))", "settings), 9)"), ""
    first = ["an init has ended, or could not mount, or hangs"] if refused == "mount" else []
    assert run_program(tmp_path, program, before=before).splitlines() == [*first, "True", "none is left"]


def test_an_init_that_never_becomes_ready_is_killed(tmp_path: Path) -> None:
    if problem_with(Containment.PIDNS) is not None or os.geteuid() != 0:
        pytest.skip("only a superuser can make these surroundings")
    os.mkfifo(tmp_path / "nobody_reads")
    settings = f"settings = [({str(tmp_path / 'nobody_reads')!r}, 'x')]; _bare_inits._READY_MS = 50"
    program = MAKES_ONE.replace("settings = []", settings)
    lines = run_program(tmp_path, program).splitlines()
    assert lines == ["an init has ended, or could not mount, or hangs", "True", "none is left"]


def test_an_init_that_was_never_cloned_keeps_no_memory() -> None:
    inits = BareInits(b"spindle init", has_own_proc=False)
    inits._clone = lambda *_: -1
    for number in range(3):
        with pytest.raises(OSError):  # whatever the last error was
            inits.make(number, [])
    assert not inits._memory
