"""The part of a child's program that runs Trio: for an `async` entry, and for a spare that waits for its order.

A spare is a process that was forked before there was an order for it. It runs Trio already, since starting Trio would
be most of the start of an `async` entry. Only loading the entry's file shows whether the entry is `async`. For a
blocking one, Trio ends first: such an entry may want to run Trio itself. So only its module level runs inside Trio.
"""

from __future__ import annotations

import os
import socket
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, cast

import trio

from spindle_trio._linux._shared_page import BEAT
from spindle_trio._protocol._socket_lane import SocketLane
from spindle_trio.child._async_runtime import run_async_child
from spindle_trio.child._callables import is_coroutine_function
from spindle_trio.child._exit_frames import describe_error
from spindle_trio.child._plain_lane import end_without_host
from spindle_trio.child._process import ChildProcess, end, end_if_copy, load, mute, report, run_blocking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import NoReturn

    from spindle_trio._protocol._frames import FrameDecoder
    from spindle_trio.child._async_context import ProcessContext
    from spindle_trio.child._async_runtime import EntryFunction


def run_async(child: ChildProcess, function: Callable[[object], object]) -> None:
    """Run an `async` entry to its end."""
    try:
        trio.run(_run_entry, child, _Lanes(child), function)
    except BaseException as error:  # noqa: ASYNC103  # Ctrl-C, or a mistake of the runtime
        _note_broken_run(child, error)  # noqa: ASYNC104  # as above


def run_spare(
    control_fd: int, messages_fd: int, page_fd: int, calls_fd: int, rehearse: Callable[[], Awaitable[None]]
) -> NoReturn:
    """Do what `spindle_trio.child._program.main` does, waiting for the first frames with Trio running.

    Args:
        control_fd: this end of the control lane.
        messages_fd: this end of the messages lane.
        page_fd: the page for heartbeats.
        calls_fd: this end of the calls lane.
        rehearse: called once Trio runs, before this waits.
    """
    child = ChildProcess(control_fd, messages_fd, page_fd, calls_fd)
    lanes = _Lanes(child)
    go_on: Callable[[], None] | None = None
    try:
        go_on = trio.run(_wait_and_run, child, lanes, rehearse)
    except BaseException as error:  # noqa: ASYNC103  # as in `run_async`
        _note_broken_run(child, error)
    if go_on is not None:
        go_on()
    end(child)  # noqa: ASYNC104  # as in `run_async`


class _Lanes:
    """The lanes of a child as Trio uses them.

    They use duplicates, so that the plain lanes keep their descriptors for the last frame.
    """

    def __init__(self, child: ChildProcess) -> None:
        self._duplicates: list[int] = []
        self._calls_fd = child.calls_fd
        os.register_at_fork(after_in_child=lambda: None if self.is_closed else mute(*self._duplicates))
        self.is_closed: bool = False
        self.control: SocketLane = self._lane(child.control.fd, child.control.decoder)
        self.messages: SocketLane = self._lane(child.messages.fd, child.messages.decoder)
        self._calls: SocketLane | None = None

    def calls(self) -> SocketLane:
        """Make the calls lane, when it is first needed."""
        if self._calls is None:
            self._calls = self._lane(self._calls_fd)
        return self._calls

    def close(self) -> None:
        """Close the duplicates: there is no `async` entry to use them."""
        self.is_closed = True
        self.control.close()
        self.messages.close()

    def _lane(self, fd: int, decoder: FrameDecoder | None = None) -> SocketLane:
        duplicate = os.dup(fd)
        self._duplicates.append(duplicate)
        return SocketLane(
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, duplicate), max_bytes=None, decoder=decoder
        )


async def _wait_and_run(
    child: ChildProcess, lanes: _Lanes, rehearse: Callable[[], Awaitable[None]]
) -> Callable[[], None] | None:
    """Wait for the first frames, and run the entry if it is `async`; if not, return a function that runs it."""
    await rehearse()
    # This blocks the loop, which has nothing else to do: to be woken up by way of it takes longer.
    function = load(child)
    if function is not None and is_coroutine_function(function):
        await _run_entry(child, lanes, function)
        return None
    lanes.close()
    if function is None:
        return None
    # In the context in which its module level has set variables, such as the precision of `decimal`.
    return partial(copy_context().run, run_blocking, child, function)


async def _run_entry(child: ChildProcess, lanes: _Lanes, function: Callable[[object], object]) -> None:
    entry, words = cast("EntryFunction", function), child.words

    def beat() -> None:
        words[BEAT] = monotonic()

    async def call(context: ProcessContext) -> object:
        error: BaseException | None = None
        try:
            return await entry(context)
        except BaseException as raised:
            error = raised
            raise
        finally:
            end_if_copy(child, error)
            error = None  # it refers to this frame

    try:
        child.code, child.sent = await run_async_child(
            call,
            child.facts,
            lanes.control,
            lanes.messages,
            lanes.calls,
            beat=beat,
            report=report,
            host_gone=end_without_host,
        )
    except BaseException:
        child.sent = lanes.messages.frames_sent
        raise


def _note_broken_run(child: ChildProcess, error: BaseException) -> None:
    report(f"the runtime of this process was ended by {describe_error(error)}")
    child.code = 1
