"""One child process from its first frames to its last: the part that all kinds of entries share.

`_program` runs a blocking entry with it, `_async_program` an `async` one.
"""

from __future__ import annotations

import os
import select
import sys
from time import monotonic

from spindle_trio._linux._shared_page import STOP, leave_stacks, map_page
from spindle_trio._protocol._json_text import read_json
from spindle_trio.child._entry import EntryFileError, load_entry, read_code
from spindle_trio.child._exec import read_order
from spindle_trio.child._exit_frames import (
    describe_error,
    encode_complete,
    encode_exiting,
    encode_fail,
    encode_failure,
    encode_stopped,
    system_exit_code,
)
from spindle_trio.child._facts import facts_from_init
from spindle_trio.child._launch_order import take_on
from spindle_trio.child._plain_lane import PlainLane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import NoReturn

    from spindle_trio._model import JsonValue
    from spindle_trio.child._facts import ProcessFacts

LINGER_SECONDS = 0.5
"""Seconds that this process waits, after its last frame, for the host to end it with its descendants."""


def report(text: str) -> None:
    """Show a text to the author of the entry, on stderr."""
    try:
        print(text, file=sys.stderr, flush=True)
    except Exception:  # noqa: S110  # the entry may have closed or replaced it, and there is no other place to report
        pass


class ChildProcess:
    """This process: its lanes and page, and its state."""

    def __init__(self, control_fd: int, messages_fd: int, page_fd: int, calls_fd: int) -> None:
        self.fds: tuple[int, int, int, int] = (control_fd, messages_fd, page_fd, calls_fd)
        self.control: PlainLane = PlainLane(control_fd)
        self.messages: PlainLane = PlainLane(messages_fd)
        self.calls_fd: int = calls_fd
        """The calls lane, for which most entries need nothing more."""
        os.set_inheritable(calls_fd, False)
        self.words: memoryview[float] = map_page(page_fd)
        leave_stacks(page_fd)
        self.pid: int = os.getpid()
        self.facts: ProcessFacts
        self.code: int = 0
        """Its exit code."""
        self.sent: int = 0
        """How many messages it has put on its messages lane in all."""
        os.register_at_fork(after_in_child=lambda: mute(control_fd, messages_fd, page_fd, calls_fd))


def load(child: ChildProcess) -> Callable[[object], object] | None:
    """Follow the first two frames, and load the entry; `None` if the process ends with that.

    The host is still writing the second one when the first arrives. So whatever the first one asks for is done before
    this waits for the second, and only the entry's own code runs after it.
    """
    order = read_order(*child.fds)
    prepared = _prepare(order)
    child.facts = facts_from_init(read_json(wait_for_frame(child.control)))
    if child.words[STOP]:
        # Loading the file is part of the entry.
        _push(child.control, encode_stopped(0))
        return None
    try:
        if isinstance(prepared, BaseException):
            raise prepared
        function = load_entry(*prepared)
    except BaseException as raised:  # noqa: ASYNC103  # no Trio runs in here
        end_if_copy(child, raised)
        child.code = _end_by_loading(raised, child.facts, child.control)
        return None  # noqa: ASYNC104  # as above
    end_if_copy(child, None)
    return function


def _prepare(order: JsonValue) -> tuple[str, CodeType] | BaseException:
    """Follow an order, and return the entry's file and code; or what went wrong, until the host can be told."""
    try:
        file = take_on(order)
        return file, read_code(file)[1]
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
        return error  # noqa: ASYNC104  # as above


def run_blocking(child: ChildProcess, function: Callable[[object], object]) -> None:
    """Run a blocking entry to its end."""
    from spindle_trio.child._blocking_controls import BlockingControls
    from spindle_trio.child._blocking_runtime import run_blocking_entry

    controls = BlockingControls(child.facts, child.control, child.messages, child.words, report, child.calls_fd)
    child.code = run_blocking_entry(function, controls)
    child.sent = controls.sent


def end(child: ChildProcess) -> NoReturn:
    """Do what the interpreter does at its end, send the last frame, and end."""
    _finalise()
    if os.getpid() != child.pid:
        os._exit(child.code)  # a forked copy that has left the entry: its end is not the end of this process
    _push(child.control, encode_exiting(child.sent, child.code))
    _linger(child.control)
    os._exit(child.code)


def end_if_copy(child: ChildProcess, error: BaseException | None) -> None:
    """End a forked copy of this process that has left the entry's own code, as any finished program ends.

    It must not go on: it shares the epoll instance of a Trio run, and leaving that run would make the original deaf.

    Args:
        child: the process, as the copy knows it.
        error: raised by the entry's code in the copy.
    """
    if os.getpid() == child.pid:
        return
    child.code = 0
    if error is not None:
        code = system_exit_code(error, report)
        if code is None:
            report(describe_error(error))
        child.code = 1 if code is None else code
    end(child)


def _end_by_loading(error: BaseException, facts: ProcessFacts, control: PlainLane) -> int:
    """Report the error of loading the entry, and return the exit code."""
    code = system_exit_code(error, report)
    if code is None:
        before = f"the entry {facts.entry!r} could not be loaded: "
        is_ours = isinstance(error, EntryFileError)
        _push(
            control, encode_fail(f"{before}{error}", 0, facts) if is_ours else encode_failure(error, 0, facts, before)
        )
        return 1
    if code == 0:
        _push(control, encode_complete(None, 0, facts))
    return code


def mute(*lanes: int) -> None:
    """Take lanes and page away from a forked copy of this process: it must not speak for this process."""
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
    except OSError:
        for fd in lanes:
            os.close(fd)  # no descriptor is left, or no `/dev`
        return
    for fd in lanes:
        os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


def _finalise() -> None:
    """Do what the interpreter does when it ends: join threads, call `atexit` functions, flush output."""
    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
        report(f"while the threads of this process were joined: {describe_error(error)}")
    try:
        import atexit

        atexit._run_exitfuncs()
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
        report(f"in a function registered with atexit: {describe_error(error)}")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: S110  # closed, replaced or broken: there is no place left to report
            pass


def wait_for_frame(control: PlainLane) -> bytes:
    """Wait for the next frame on a lane, without Trio."""
    while (body := control.take()) is None:
        _wait(control.fd, select.POLLIN, None)
        control.fill()
    return body


def _push(control: PlainLane, body: bytes) -> None:
    """Send a control frame, and return when the system has it."""
    control.push(body)
    while not control.is_flushed:
        _wait(control.fd, select.POLLOUT, None)
        control.flush()


def _linger(control: PlainLane) -> None:
    """Wait for the kill, for the host to close the lane, or until the time is over."""
    deadline = monotonic() + LINGER_SECONDS
    while (left := deadline - monotonic()) > 0:
        if _wait(control.fd, select.POLLIN, left):
            control.fill()


def _wait(fd: int, events: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
