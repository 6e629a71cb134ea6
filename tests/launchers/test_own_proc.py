"""At level `pidns` a process has a `/proc` that fits its namespace, and the host's is what it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import trio

from spindle_trio import Containment, ForkServerLauncher, PythonLauncher, open_host
from support.containment import at_most_namespaces, problem_with, require, run_program
from support.fork_server import fork_host
from support.seccomp import ERRORS, refusing

pytestmark = pytest.mark.usefixtures("no_survivors")


def require_own_proc() -> None:
    require(Containment.PIDNS)

    async def lack() -> str | None:
        async with open_host(ForkServerLauncher(preload=(), spares=0, containment=Containment.PIDNS)) as host:
            return host.statistics().containment_problems.get(Containment.PIDNS)

    why = trio.run(lack)
    if why is not None:
        pytest.skip(why)


LOOKS = """
import os, subprocess, sys
def run(process):
    process.ready()
    child = subprocess.run([sys.executable, "-S", "-c", "import os; print(os.getpid(), os.readlink('/proc/self'))"],
        capture_output=True, text=True)
    threads = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    with open(f"/proc/{os.getpid()}/cmdline", "rb") as file:
        own = file.read() == open("/proc/self/cmdline", "rb").read()
    result = [os.readlink("/proc/self") == str(os.getpid()), own, threads == [1, os.getpid()]]
    return [*result, len(set(child.stdout.split())), os.getcwd()]
"""


@pytest.mark.parametrize("launcher", [ForkServerLauncher, PythonLauncher])
@pytest.mark.parametrize("spares", [0, 1])
async def test_what_a_process_finds_in_proc_are_the_numbers_of_its_namespace(
    tmp_path: Path, launcher: type[ForkServerLauncher], spares: int
) -> None:
    await trio.to_thread.run_sync(require_own_proc)
    before = os.readlink("/proc/self/ns/mnt"), Path("/proc/self/mountinfo").read_text()
    (tmp_path / "entry.py").write_text(LOOKS)
    async with (
        open_host(launcher(spares=spares, containment="pidns")) as host,
        host.open_worker("tests", root=tmp_path, user_id="ada") as worker,
    ):
        handle = await worker.backend_processes.spawn("entry.py")
        await handle.wait_ended()
        assert handle.result == [True, True, True, 1, str(tmp_path)], handle.info
        assert (os.readlink("/proc/self/ns/mnt"), Path("/proc/self/mountinfo").read_text()) == before


async def test_psutil_finds_the_process_itself(tmp_path: Path) -> None:
    pytest.importorskip("psutil", reason='psutil is not installed: it comes with the extra "test"')
    await trio.to_thread.run_sync(require_own_proc)
    source = """
        import os, psutil
        def run(process):
            process.ready()
            me = psutil.Process()
            return [me.pid == os.getpid(), psutil.pid_exists(os.getpid()), me.memory_info().rss > 0, me.name()[:5]]
    """
    async with fork_host(tmp_path, containment=Containment.PIDNS) as forked:
        assert await forked.result(source) == [True, True, True, "entry"]


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="there is no bubblewrap here")
async def test_an_entry_can_start_bubblewrap(tmp_path: Path) -> None:
    await trio.to_thread.run_sync(require_own_proc)
    source = """
        import subprocess
        def run(process):
            process.ready()
            command = ["bwrap", "--dev-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "echo", "within"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
            return done.stdout + done.stderr
    """
    async with fork_host(tmp_path, containment=Containment.PIDNS) as forked:
        assert await forked.result(source) == "within\n"


REPORT = """
import sys, trio
import spindle_trio as spindle
async def main():
    async with (
        spindle.open_host(spindle.ForkServerLauncher(preload=(), spares=0)) as host,
        host.open_worker("w", root=sys.argv[1], user_id="ada") as worker,
    ):
        handle = await worker.backend_processes.spawn("entry.py", payload=sys.argv[1])
        print(host.statistics().containment, host.statistics().containment_problems.get("pidns"))
        await handle.wait_ended()
        print(handle.state, handle.info.error, handle.result)
trio.run(main)
"""

COMPARES = """
import os
def run(process):
    process.ready()
    return [os.readlink("/proc/self") == str(os.getpid()), os.getcwd() == process.payload]
"""

BELOW_PROC = """
if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
    sys.exit(os.strerror(ctypes.get_errno()))
if libc.mount(b"tmpfs", b"/proc/bus", b"tmpfs", 1, None):
    sys.exit(os.strerror(ctypes.get_errno()))
"""

CHANGED_ROOT = """
root = sys.argv[2] + "/root"
if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
    sys.exit(os.strerror(ctypes.get_errno()))
for name in os.listdir("/"):
    place = root + "/" + name
    if os.path.islink("/" + name):
        os.symlink(os.readlink("/" + name), place)
    elif os.path.isdir("/" + name):
        os.makedirs(place)
        if libc.mount(b"/" + name.encode(), place.encode(), None, 0x5000, None):
            sys.exit(os.strerror(ctypes.get_errno()))
folder = os.getcwd()
os.chroot(root)
os.chdir(folder)
"""

WITHOUT = {
    "no right to mount": (refusing("mount", ERRORS["EPERM"]), "Operation not permitted"),
    "no mount namespace": (at_most_namespaces(0, "mnt"), "No space left on device"),
    "a part is covered": (BELOW_PROC, "something is mounted over a part of it (/proc/bus)"),
    "a changed root": (CHANGED_ROOT, "chroot"),
}


@pytest.mark.parametrize("surroundings", WITHOUT)
def test_where_a_process_cannot_have_one_the_host_says_so_and_an_entry_can_look(
    tmp_path: Path, surroundings: str
) -> None:
    if problem_with(Containment.PIDNS) is not None or os.geteuid() != 0:
        pytest.skip("only a superuser can make these surroundings")
    before, why = WITHOUT[surroundings]
    (tmp_path / "entry.py").write_text(COMPARES)
    (tmp_path / "root").mkdir()
    level, result = run_program(tmp_path, REPORT, before=before).splitlines()
    assert level.startswith("pidns a process sees the host's /proc")
    assert why in level
    assert "/proc/self" in level
    assert result == "completed None [False, True]"


@pytest.mark.slow
def test_doctor_says_so_too(tmp_path: Path) -> None:
    require_own_proc()
    program = "import sys; from spindle_trio.cli import main; sys.argv[1:] = ['doctor']; sys.exit(main())"
    (line,) = [
        line
        for line in run_program(tmp_path, program, before=refusing("mount", ERRORS["EPERM"])).splitlines()
        if line.startswith("level pidns")
    ]
    assert "yes; but a process sees the host's /proc" in line
    assert "(mount: Operation not permitted)" in line


@pytest.mark.slow
def test_a_user_without_privileges_has_one_as_well(tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_text(COMPARES)
    level, result = run_program(tmp_path, REPORT, as_nobody=True).splitlines()
    if level != "pidns None":
        pytest.skip(level)
    assert result == "completed None [True, True]"


SHARED = """
if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x104000, None):
    sys.exit(os.strerror(ctypes.get_errno()))
"""

MOUNTS = """
import ctypes, sys, trio
import spindle_trio as spindle
libc = ctypes.CDLL(None, use_errno=True)
async def main(folder):
    async with (
        spindle.open_host(spindle.ForkServerLauncher(preload=(), spares=0, containment="pidns")) as host,
        host.open_worker("w", root=folder, user_id="ada") as worker,
    ):
        handle = await worker.backend_processes.spawn("entry.py", payload=folder)
        messages = handle.messages()
        await messages.receive()
        print("mounted inside" in open("/proc/self/mountinfo").read().replace("/inside", "mounted inside"))
        assert libc.mount(b"tmpfs", f"{folder}/outside".encode(), b"tmpfs", 0, None) == 0
        await handle.send("look")
        print(await messages.receive())
        assert libc.umount(f"{folder}/outside".encode()) == 0
        await handle.send("look")
        print(await messages.receive())
trio.run(main, sys.argv[1])
"""

MOUNTS_ITSELF = """
import ctypes
def run(process):
    ctypes.CDLL(None).mount(b"tmpfs", f"{process.payload}/inside".encode(), b"tmpfs", 0, None)
    process.ready()
    process.send("mounted")
    while True:
        process.receive()
        mounts = open("/proc/self/mountinfo").read()
        process.send(["/inside " in mounts, "/outside " in mounts])
"""


def test_mounts_stay_inside_and_those_outside_come_and_go(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only a superuser may mount")
    require_own_proc()
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "entry.py").write_text(MOUNTS_ITSELF)
    said = run_program(tmp_path, MOUNTS, before=SHARED)
    assert said.splitlines() == ["False", "[True, True]", "[True, False]"]


WAITS_AND_COMPARES = """
import os
def run(process):
    process.ready()
    process.receive()
    return os.readlink("/proc/self") == str(os.getpid())
"""

NESTED = """
import os, sys, trio
import spindle_trio as spindle
async def main(folder):
    launcher = spindle.ForkServerLauncher(preload=(), spares=0, containment="pidns")
    async with spindle.open_host(launcher) as host, host.open_worker("w", root=folder, user_id="ada") as worker:
        handle = await worker.backend_processes.spawn(sys.argv[2] if __name__ == "__main__" else "inner.py")
        os.stat(f"/proc/{handle.pid}")
        await handle.send("seen")  # until then it lives
        info = await handle.wait_ended()
        return [str(info.state), info.error, handle.result]
def run(process):
    process.ready()
    process.receive()
    return trio.run(main, os.getcwd())
if __name__ == "__main__":
    sys.argv.append("program.py")
    import json
    print(json.dumps(trio.run(main, sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("may_mount", [True, False])
def test_a_host_in_an_entry_knows_its_processes_by_what_proc_shows(tmp_path: Path, may_mount: bool) -> None:
    require_own_proc()
    (tmp_path / "inner.py").write_text(WAITS_AND_COMPARES)
    said = run_program(tmp_path, NESTED, before="" if may_mount else refusing("mount", ERRORS["EPERM"]))
    assert json.loads(said) == ["completed", None, ["completed", None, may_mount]]
