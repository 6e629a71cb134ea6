"""The rehearsal of a spare without Trio, and the part that all rehearsals share; see `_rehearsal` for their purpose."""

from __future__ import annotations

import _socket
import os
import sys

from spindle_trio._linux._command_line import show_command_line
from spindle_trio._linux._parent_death import name_process
from spindle_trio._protocol._frames import with_header
from spindle_trio._protocol._json_text import write_json
from spindle_trio.child._blocking_controls import BlockingControls
from spindle_trio.child._blocking_runtime import run_blocking_entry
from spindle_trio.child._plain_lane import PlainLane
from spindle_trio.child._process import ChildProcess, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio.child._facts import ProcessFacts

_ENTRY = os.path.join(os.path.dirname(os.path.realpath(__file__)), "rehearsal_blocking_entry.py")

_INIT = (
    b'{"type":"init","protocol":1,"processId":"rehearsal","entry":"rehearsal","kind":"rehearsal","heartbeatTimeoutMs":0,'
    b'"limits":{"frameBytes":4096,"depth":8,"values":64,"textBytes":null,"containerEntries":null},"payload":{"n":[1]}}'
)


class _Rehearsed(ChildProcess):
    """A process that plays: its control lane is a socket of its own, and nobody reads its page."""

    def __init__(self, control_fd: int) -> None:
        self.fds = control_fd, -1, -1, -1
        self.control = PlainLane(control_fd)
        self.calls_fd = -1
        self.words = memoryview(bytearray(16)).cast("d")
        self.pid = os.getpid()


def rehearse_loading(file: str) -> tuple[Callable[[object], object], ProcessFacts]:
    """Follow the first two frames as a launch would send them, and then be what this process was before.

    Returns:
        The function of the rehearsal's entry, and its facts.
    """
    path, arguments, name = sys.path[:], sys.argv[:], _own_name()
    order = {
        "file": file,
        "entry": "rehearsal",
        "processId": "",
        "path": None,
        "root": _own_folder(),
        "environment": None,
    }
    here, there = _socket.socketpair()
    here.send(with_header(write_json(order).encode()) + with_header(_INIT))
    child = _Rehearsed(there.fileno())
    function = load(child)
    assert function is not None, "the rehearsal's entries can be loaded"
    here.close()
    there.close()
    sys.path[:], sys.argv[:] = path, arguments
    del sys.modules[file.rpartition("/")[2].removesuffix(".py")]
    name_process(name)
    show_command_line("spindle-trio", "spare")
    return function, child.facts


def _own_folder() -> str | None:
    try:
        folder = os.getcwd()
        os.chdir(folder)
    except OSError:
        return None  # it has gone, or cannot be reached by its name: that part is not rehearsed
    return folder


def _own_name() -> str:
    try:
        fd = os.open("/proc/self/comm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "python3"  # there is no `/proc`
    try:
        return os.read(fd, 64).decode(errors="replace").rstrip("\n")
    finally:
        os.close(fd)


def rehearse_blocking() -> None:
    """Run the rehearsal's blocking entry."""
    function, facts = rehearse_loading(_ENTRY)
    sockets = [sock for _ in range(2) for sock in _socket.socketpair()]
    control, _, messages, _ = (PlainLane(sock.fileno()) for sock in sockets)
    words = memoryview(bytearray(16)).cast("d")
    run_blocking_entry(function, BlockingControls(facts, control, messages, words, ignore, -1))
    for sock in sockets:
        sock.close()


def ignore(_: str = "") -> None:
    """Drop a heartbeat or a report: there is no host."""
