"""The program inside a child: from the first frame to the last.

Theory of operation
-------------------

1. The lanes and the page are taken over; no process that the entry starts will inherit them.
2. The first frame tells the facts. Nothing else is read before it is known how to read on, but what came with it stays
   in the lane's decoder, which is handed over together with the lane.
3. `sys.path`, `sys.argv` and the output streams become what an entry may expect, and its file is loaded. Only then it
   is known whether the entry is `async`. A blocking one never pays for Trio.
4. The runtime of its kind runs the entry and says the final word (`_blocking_runtime`, `_async_runtime`).
5. What the interpreter does at its own end is done here, while the host can still see it: threads are joined, functions
   registered with `atexit` called, output flushed. The last frame, `exiting`, says that all this is done.
6. The host now ends the whole tree at once. Should it not, this process ends itself half a second later, by `os._exit`,
   which leaves nothing to chance.

A host that is gone shows as the end of the control lane, wherever that is read, and ends this process on the spot.
"""

from __future__ import annotations

import json
import os
import select
import sys
from time import monotonic

from spindle_trio.child._callables import is_coroutine_function
from spindle_trio.child._entry import EntryFileError, load_entry
from spindle_trio.child._facts import facts_from_init
from spindle_trio.child._final_word import (
    describe_error,
    encode_complete,
    encode_exiting,
    encode_fail,
    encode_stopped,
    system_exit_code,
)
from spindle_trio.child._page import BEAT, STOP, map_page
from spindle_trio.child._plain_lane import PlainLane, end_without_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from spindle_trio.child._async_runtime import EntryFunction
    from spindle_trio.child._facts import ProcessFacts

LINGER_SECONDS = 0.5
"""How long this process waits, after its last frame, for the host to end it with all that descends from it."""


def main(orders: dict[str, object]) -> NoReturn:
    """Run one process, from its first frame to its end.

    Args:
        orders: what the launcher has written: the descriptors `control`, `messages` and `page`, the `file` to run,
            and `path`, the host's `sys.path`, or `None` to keep one's own.
    """
    control = PlainLane(_integer(orders["control"]))
    messages = PlainLane(_integer(orders["messages"]))
    words = map_page(_integer(orders["page"]))
    own_pid = os.getpid()
    os.register_at_fork(after_in_child=lambda: _mute(control.fd, messages.fd))
    facts = facts_from_init(json.loads(_wait_for_frame(control)))
    file = str(orders["file"])
    path = orders["path"]
    _prepare(facts, file, path if isinstance(path, list) else None)
    code, sent = _run(file, facts, control, messages, words)
    _finalise()
    if os.getpid() != own_pid:
        os._exit(code)  # a forked copy that has come out of the entry: its end is not the end of this process
    _push(control, encode_exiting(sent, code))
    _linger(control)
    os._exit(code)


def report(text: str) -> None:
    """Show a text to the author of the entry, on stderr."""
    try:
        print(text, file=sys.stderr, flush=True)
    except Exception:  # noqa: S110  # the entry may have closed or replaced it, and there is nowhere else to say it
        pass


def _run(
    file: str, facts: ProcessFacts, control: PlainLane, messages: PlainLane, words: memoryview[float]
) -> tuple[int, int]:
    """Load the entry and run it, and return the exit code and the number of messages sent."""
    if words[STOP]:
        # What the file does when it is loaded is part of the entry.
        _push(control, encode_stopped(0))
        return 0, 0
    try:
        function = load_entry(file)
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
        return _end_by_loading(error, facts, control), 0  # noqa: ASYNC104  # as above
    if is_coroutine_function(function):
        return _run_async(function, facts, control, messages, words)
    from spindle_trio.child._blocking_runtime import BlockingRuntime

    runtime = BlockingRuntime(facts, control, messages, words, report)
    return runtime.run(function), runtime.sent


def _run_async(
    function: Callable[[object], object],
    facts: ProcessFacts,
    control: PlainLane,
    messages: PlainLane,
    words: memoryview[float],
) -> tuple[int, int]:
    import functools
    import socket
    from typing import cast

    import trio

    from spindle_trio._socket_lane import SocketLane
    from spindle_trio.child._async_runtime import run_async_child

    def beat() -> None:
        words[BEAT] = monotonic()

    # Duplicates, so that the descriptors stay with the plain lanes: the last frame is still to be said.
    duplicates = [os.dup(lane.fd) for lane in (control, messages)]
    os.register_at_fork(after_in_child=lambda: _mute(*duplicates))
    lanes = [
        SocketLane(socket.socket(fileno=fd), max_bytes=None, decoder=lane.decoder)
        for fd, lane in zip(duplicates, (control, messages), strict=True)
    ]
    entry = cast("EntryFunction", function)
    run = functools.partial(run_async_child, entry, facts, *lanes, beat=beat, report=report, host_gone=end_without_host)
    try:
        code, sent = trio.run(run)
    except BaseException as error:  # noqa: ASYNC103  # Ctrl-C, or a mistake of the runtime
        report(f"the runtime of this process was ended by {describe_error(error)}")
        return 1, lanes[1].frames_sent  # noqa: ASYNC104  # as above
    return code, sent


def _end_by_loading(error: BaseException, facts: ProcessFacts, control: PlainLane) -> int:
    """Say what follows from what loading the entry has raised, and return the exit code."""
    code = system_exit_code(error, report)
    if code is None:
        text = str(error) if isinstance(error, EntryFileError) else describe_error(error)
        _push(control, encode_fail(f"the entry {facts.entry!r} could not be loaded: {text}", 0, facts))
        return 1
    if code == 0:
        _push(control, encode_complete(None, 0, facts))
    return code


def _prepare(facts: ProcessFacts, file: str, path: list[str] | None) -> None:
    """Make the interpreter what an entry may expect."""
    folder = file.rpartition("/")[0]
    sys.path[:] = [folder, *(sys.path if path is None else path)]
    sys.argv[:] = [facts.entry]
    for stream in (sys.stdout, sys.stderr):
        # A line at a time, since whoever is killed flushes nothing, and somebody may be reading along.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _mute(*lanes: int) -> None:
    """Take the lanes away from a forked copy of this process: what it says is not this process's word."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in lanes:
        os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


def _finalise() -> None:
    """Do what the interpreter does when it ends: join threads, call what is registered with `atexit`, flush output."""
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
        except Exception:  # noqa: S110  # closed, replaced or broken: there is nowhere left to say it
            pass


def _wait_for_frame(control: PlainLane) -> bytes:
    while (body := control.take()) is None:
        _wait(control.fd, select.POLLIN, None)
        control.fill()
    return body


def _push(control: PlainLane, body: bytes) -> None:
    """Send a control frame, and return when it is with the system."""
    control.push(body)
    while not control.is_flushed:
        _wait(control.fd, select.POLLOUT, None)
        control.flush()


def _linger(control: PlainLane) -> None:
    """Wait to be killed, or for the host to close the lane, or until the time is over."""
    deadline = monotonic() + LINGER_SECONDS
    while (left := deadline - monotonic()) > 0:
        if _wait(control.fd, select.POLLIN, left):
            control.fill()


def _wait(fd: int, events: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value
