"""A program that runs into a limit of the system: the error names it, its value and what to raise."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
from pathlib import Path

import pytest
import trio

from spindle_trio.launchers._local import _launch_thread, _system_limits
from spindle_trio.launchers._local._system_limits import limit_behind, with_limit
from support.containment import run_program

HOST = """
    import json, os, resource, sys, tempfile, trio
    from pathlib import Path
    from spindle_trio import ForkServerLauncher, open_host

    folder = Path(sys.argv[1])
    (folder / "entry.py").write_text("def run(process):\\n    process.ready()\\n    process.receive()")

    def descriptors():
        return max(map(int, os.listdir("/proc/self/fd")))

    def tasks_of_this_user():
        found = 0
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                if Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0] == str(os.getuid()):
                    found += len(os.listdir(f"/proc/{pid}/task"))
            except OSError:
                pass
        return found

    async def attempt(spawns):
        '''Open a host and spawn; return which of them has failed, and how.'''
        said = "opening"
        try:
            async with open_host(ForkServerLauncher(preload=(), spares=0)) as host:
                async with host.open_worker("tests", root=folder, user_id="ada") as worker:
                    said = "spawning"
                    for _ in range(spawns):
                        await worker.backend_processes.spawn("entry.py")
                    return [said, "", ""]
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup):
                (error,) = error.exceptions
            return [said, type(error).__name__, str(error)]
"""

DESCRIPTORS = """
    async def main():
        results = []
        for room in (2, 6, 8, 10, 12, 16):
            number = descriptors() + room
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
            results.append([number, *await attempt(3)])
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        print(json.dumps(results))

    from spindle_trio.launchers._local import _server_launcher
    _server_launcher.raise_limit = lambda: None  # the limit stands for the hard one, which cannot be raised again
    trio.run(main)
"""

PROCESSES = """
    async def main():
        results = []
        for room in (0, 1, 2, 3, 7):
            number = tasks_of_this_user() + room
            resource.setrlimit(resource.RLIMIT_NPROC, (number, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
            results.append([number, *await attempt(10)])
        print(json.dumps(results))

    trio.run(main)
"""

AS_ANOTHER_USER = """
if os.geteuid() == 0:  # whom no limit on processes holds
    for capability in (21, 24):  # CAP_SYS_ADMIN, CAP_SYS_RESOURCE
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    os.setresuid(54_321, 0, 0)
"""


def test_a_host_without_descriptors_names_their_limit(tmp_path: Path) -> None:
    results = json.loads(run_program(tmp_path, HOST + DESCRIPTORS))
    for number, _, _, text in results:
        assert f"this program may have {number} descriptors open (RLIMIT_NOFILE): raise" in text
        assert "Errno" not in text
    kinds = [tuple(result[1:3]) for result in results]
    assert set(kinds) == {("opening", "RuntimeError"), ("spawning", "LaunchError")}


def test_a_user_without_processes_is_told_of_that_limit(tmp_path: Path) -> None:
    results = json.loads(run_program(tmp_path, HOST + PROCESSES, before=AS_ANOTHER_USER))
    for number, _, _, text in results:
        assert f"may have {number} processes and threads (RLIMIT_NPROC; ulimit -u)" in text
        assert "kernel.threads-max" in text
        assert "Errno" not in text
        assert "Traceback" not in text
    kinds = [tuple(result[1:3]) for result in results]
    assert set(kinds) == {("opening", "RuntimeError"), ("spawning", "LaunchError")}


def test_a_bound_of_the_control_group_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "service" / "job"
    inner.mkdir(parents=True)
    (inner / "pids.max").write_text("max\n")
    (tmp_path / "service" / "pids.max").write_text("64\n")
    real = _system_limits._read
    monkeypatch.setattr(_system_limits, "_GROUPS", tmp_path)
    monkeypatch.setattr(
        _system_limits, "_read", lambda path: "0::/service/job\n" if path == "/proc/self/cgroup" else real(path)
    )
    said = limit_behind(BlockingIOError(errno.EAGAIN, "none left"))
    assert f"the control group {tmp_path / 'service'} 64 (pids.max)" in str(said)
    assert str(inner) not in str(said)


def test_the_limit_of_the_system_is_named_where_that_is_it() -> None:
    assert "fs.file-max" in str(with_limit(OSError(errno.ENFILE, os.strerror(errno.ENFILE))))


def test_the_limit_of_another_program_is_read_from_that() -> None:
    soft, _ = resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE)
    said = str(with_limit(OSError(errno.EMFILE, "the fork server could not fork"), os.getpid()))
    assert said.startswith(f"the fork server could not fork: the fork server (pid {os.getpid()}) may have {soft} ")


def test_other_errors_stay_as_they_are() -> None:
    error = PermissionError(errno.EPERM, "Operation not permitted")
    assert with_limit(error) is error
    assert limit_behind(RuntimeError("the module 'numpy' has started 1 thread(s)")) is None


# ---- no thread left


def refuse_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_launch_thread_that_could_not_be_started_is_started_when_it_can_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_launch_thread, "_jobs", None)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="can't start new thread"):
        patch.setattr(threading.Thread, "start", refuse_thread)
        await _launch_thread.run_in_launch_thread(lambda: 1, lambda _: None)
    with trio.fail_after(5):
        assert await _launch_thread.run_in_launch_thread(lambda: 2, lambda _: None) == 2


def test_what_nobody_can_reap_in_the_background_is_told_of_and_let_go(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threading.Thread, "start", refuse_thread)
    pidfd = os.pidfd_open(os.getpid())
    _launch_thread.reap_in_background("p-1", os.getpid(), pidfd)
    assert "remains a zombie" in caplog.text
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)
