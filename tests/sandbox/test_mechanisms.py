"""The mechanisms of sandboxes one by one, each in a copy of this program, which they bind for good."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from spindle_trio._linux import _capabilities, _landlock, _seccomp
from spindle_trio._model import Containment, JsonValue
from spindle_trio._model._sandbox import SandboxPart
from spindle_trio.child._confine import apply_sandbox, forbid_subprocesses
from spindle_trio.launchers._local import _sandbox_parts

RULES: Mapping[str, JsonValue] = {"read": ["/usr"], "write": ["/"], "network": "none", "subprocesses": True}


def in_a_copy(function: Callable[[], object]) -> int:
    """Run something in a forked copy; return 0, the number of the `OSError` that it raised, or -n for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            function()
            code = 0
        except OSError as error:
            code = error.errno or 98
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_path_that_has_become_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    for path in (f"{tmp_path}/link", f"{tmp_path}/link/ssl"):
        rules = {**RULES, "write": [path]}
        assert in_a_copy(lambda rules=rules: apply_sandbox(rules)) == errno.ELOOP  # type: ignore[misc]


def test_a_path_that_has_gone_allows_nothing_and_hinders_nobody(tmp_path: Path) -> None:
    def attempt() -> None:
        apply_sandbox({**RULES, "write": [f"{tmp_path}/gone"]})
        os.mkdir(f"{tmp_path}/gone")

    assert in_a_copy(attempt) == errno.EACCES


def test_a_process_with_other_threads_does_not_go_in() -> None:
    def attempt() -> None:
        event = threading.Event()
        threading.Thread(target=event.wait, daemon=True).start()
        with pytest.raises(OSError, match="it cannot go into its sandbox: it has other threads"):
            apply_sandbox(RULES)

    assert in_a_copy(attempt) == 0


def test_nothing_can_be_taken_back() -> None:
    def attempt() -> None:
        apply_sandbox(RULES)
        apply_sandbox({**RULES, "network": "host"})
        socket.socket()

    assert in_a_copy(attempt) == errno.EPERM


def test_threads_may_be_started_where_processes_may_not() -> None:
    def attempt() -> None:
        apply_sandbox({**RULES, "subprocesses": False})
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        os.fork()

    assert in_a_copy(attempt) == errno.EPERM


def test_starting_processes_can_be_given_up_later() -> None:
    def attempt() -> None:
        apply_sandbox(RULES)
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        forbid_subprocesses()
        os.posix_spawn("/bin/true", ["true"], {})

    assert in_a_copy(attempt) == errno.EPERM


@pytest.mark.parametrize(
    ("network", "datagrams", "kind", "refused"),
    [
        ("none", False, (socket.AF_UNIX, socket.SOCK_STREAM), True),
        ("none", False, (socket.AF_UNIX, socket.SOCK_DGRAM), True),
        ("none", True, (socket.AF_UNIX, socket.SOCK_DGRAM), False),
        ("none", True, (socket.AF_UNIX, socket.SOCK_STREAM), True),
        ("none", True, (socket.AF_INET, socket.SOCK_DGRAM), True),
        ("unix", False, (socket.AF_UNIX, socket.SOCK_STREAM), False),
        ("unix", False, (socket.AF_INET, socket.SOCK_STREAM), True),
        ("unix", False, (socket.AF_NETLINK, socket.SOCK_RAW), True),
        ("host", False, (socket.AF_INET, socket.SOCK_STREAM), False),
        ("host", False, (socket.AF_NETLINK, socket.SOCK_RAW), False),
    ],
)
def test_a_filter_tells_sockets_apart(network: str, datagrams: bool, kind: tuple[int, int], refused: bool) -> None:
    def attempt() -> None:
        _seccomp.install(network=network, subprocesses=True, datagrams=datagrams)
        socket.socket(*kind).close()

    assert in_a_copy(attempt) == (errno.EPERM if refused else 0)


def test_where_landlock_knows_no_truncation_the_filter_refuses_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")

    def attempt(act: Callable[[], object]) -> int:
        def limited() -> None:
            _seccomp.install(network="host", subprocesses=True, truncate=False)
            act()

        return in_a_copy(limited)

    assert attempt(lambda: os.truncate(tmp_path / "file", 0)) == errno.EPERM
    assert attempt(lambda: os.open(tmp_path / "file", os.O_RDONLY | os.O_TRUNC)) == errno.EPERM
    assert (tmp_path / "file").read_text() == "kept"
    assert attempt(lambda: os.ftruncate(os.open(tmp_path / "file", os.O_RDWR), 0)) == 0
    assert attempt(lambda: os.open(tmp_path / "file", os.O_RDWR | os.O_TRUNC)) == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="about the other ways into a kernel for x86_64")
def test_the_other_ways_into_the_kernel_are_closed() -> None:
    getpid_of_32_bits = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret

    def by_32_bits() -> None:
        _seccomp.install(network="none", subprocesses=True)
        import mmap

        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(getpid_of_32_bits)
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()

    def by_x32() -> None:
        _seccomp.install(network="none", subprocesses=True)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(ctypes.c_long(0x40000000 + 39)) < 0:
            raise OSError(ctypes.get_errno(), "refused")

    assert in_a_copy(by_32_bits) == -signal.SIGSYS
    assert in_a_copy(by_x32) == errno.ENOSYS


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_root_gives_up_its_rights_for_good() -> None:
    def attempt() -> None:
        apply_sandbox(RULES)
        said = subprocess.run(
            ["grep", "CapPrm", "/proc/self/status"], capture_output=True, text=True, check=True
        ).stdout
        kept = int(said.split()[1], 16)
        assert kept & ~_capabilities._KEPT == 0
        assert kept & 1 << 1, "it still reads its own files"

    assert in_a_copy(attempt) == 0


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        (7, set()),
        (6, set()),
        (5, {"abstract-sockets", "signals"}),
        (4, {"abstract-sockets", "signals", "devices"}),
        (1, {"abstract-sockets", "signals", "devices"}),
        (0, {"abstract-sockets", "signals", "devices", "files"}),
    ],
)
def test_the_parts_follow_the_kernel(version: int, missing: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def here() -> int:
        if not version:
            raise OSError(errno.EOPNOTSUPP, "switched off")
        return version

    monkeypatch.setattr(_landlock, "version", here)
    means, problems = _sandbox_parts.find_parts.__wrapped__(Containment.KILLPG)
    assert set(problems) - {"namespaces"} == missing
    assert set(means) | set(problems) == set(SandboxPart)
    if SandboxPart.FILES in problems:
        assert problems[SandboxPart.FILES] == "there is no Landlock: switched off (Linux 5.13)"
    if version == 4:
        assert problems[SandboxPart.SIGNALS] == "Landlock here is version 4, and this needs version 6 (Linux 6.12)"
    by_namespace, _ = _sandbox_parts.find_parts.__wrapped__(Containment.PIDNS)
    assert SandboxPart.SIGNALS in by_namespace


def test_without_filters_the_parts_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(_seccomp, "require", refuse)
    means, problems = _sandbox_parts.find_parts.__wrapped__(Containment.KILLPG)
    for part in (SandboxPart.NETWORK, SandboxPart.SYSTEM_CALLS):
        assert part not in means
        assert problems[part] == "there are no filters of system calls (seccomp, Linux 3.5): no such call"


def test_a_child_without_a_sandbox_loads_nothing_of_this() -> None:
    program = "import sys, spindle_trio.child._program, spindle_trio.child._async_program\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {name for name in loaded if name.endswith(("_confine", "_landlock", "_seccomp", "_capabilities"))}
