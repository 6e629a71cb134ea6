"""Runs a blocking entry: calls it, and sees that there is a final word.

Theory of operation
-------------------

Everything happens on one thread, inside the entry's own calls: there is no loop beside it. So nothing is noticed while
the entry computes. `BlockingControls` does what the entry asks for, and what has to be done while it waits.

A stop is judged once. If there is a handler, it is called. If the entry has seen it in `stop_requested`, that is
enough. Otherwise the entry is ended: `EntryEnd`, a `SystemExit`, is raised then and at each later call. `complete` and
`fail` raise the same. If the entry has sent no final word, its end decides: after `EntryEnd` it was stopped, after
another exception it failed, and after a return it completed, unless it lives on.
"""

from __future__ import annotations

from spindle_trio._errors import PayloadError
from spindle_trio.child._blocking_context import BlockingProcessContext
from spindle_trio.child._blocking_controls import BlockingControls, EntryEnd
from spindle_trio.child._blocking_lanes import LONGEST_PAUSE
from spindle_trio.child._callables import refuse_coroutine
from spindle_trio.child._exit_frames import (
    describe_error,
    encode_failure,
    encode_stopped,
    members_of,
    system_exit_code,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def run_blocking_entry(function: Callable[[BlockingProcessContext], object], controls: BlockingControls) -> int:
    """Run an entry to its end, and say everything on its behalf but `exiting`.

    When it returns, the entry and its clean-up function have ended, and all frames are with the operating system.

    Returns:
        The exit code: 0 after `complete` and `stopped`, 1 after a failure, and n after ``sys.exit(n)``.
    """
    lanes = controls.lanes
    lanes.read_control()
    if lanes.stop is not None:
        controls.say_finally("stopped", encode_stopped(controls.sent))
        return 0
    clean_up: object = None
    try:
        value = function(BlockingProcessContext(controls))
        refuse_coroutine(value)
        if callable(value):
            clean_up, value = value, None
        if _lives_on(controls, clean_up):
            _serve_until_the_end(controls)
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
        code = _end_by_raising(controls, error, clean_up)
    else:
        code = _end_by_returning(controls, value, clean_up)
    lanes.flush(lanes.messages)
    return code


def _lives_on(controls: BlockingControls, clean_up: object) -> bool:
    """Whether an entry that has returned wants to live on; not once it was told of a stop."""
    if controls.final is not None or controls.is_told:
        return False
    if clean_up is not None or controls.takes_calls:
        return True
    return bool(controls.stop_handlers) or bool(controls.message_handlers)


def _serve_until_the_end(controls: BlockingControls) -> None:
    """Serve handlers until one of them, or a stop, ends the entry by `EntryEnd`."""
    while True:
        controls.serve()
        controls.lanes.pause(LONGEST_PAUSE, wants_messages=controls.can_deliver)


def _end_by_returning(controls: BlockingControls, value: object, clean_up: object) -> int:
    _clean_up(controls, clean_up)
    if controls.final is None:
        try:
            controls.complete(value)
        except PayloadError as error:
            controls.fail(f"PayloadError: {error}")
    return _exit_code(controls)


def _end_by_raising(controls: BlockingControls, error: BaseException, clean_up: object) -> int:
    """Say what follows from what the entry, or one of its handlers, has raised, and return the exit code."""
    is_ended = _holds_entry_end(error)
    code = system_exit_code(error, controls.report)
    if controls.final is not None and code is None:
        controls.report(f"the entry raised after complete() or fail(): {describe_error(error)}")
    elif controls.final is None and code is None:
        controls.is_over = True
        controls.say_finally("failed", encode_failure(error, controls.sent, controls.facts))
    _clean_up(controls, clean_up)
    if controls.final is None:
        if is_ended:
            controls.say_finally("stopped", encode_stopped(controls.sent))
        elif code == 0:
            controls.complete(None)
        elif code is not None:
            return code
    return _exit_code(controls)


def _clean_up(controls: BlockingControls, clean_up: object) -> None:
    """Run the clean-up function that the entry has returned; what it raises is reported."""
    controls.is_over = True
    if callable(clean_up):
        try:
            refuse_coroutine(clean_up())
        except SystemExit:
            pass
        except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
            controls.report(f"the clean-up function raised {describe_error(error)}")


def _exit_code(controls: BlockingControls) -> int:
    return 1 if controls.final == "failed" else 0


def _holds_entry_end(error: BaseException) -> bool:
    """Whether the runtime has ended the entry: alone, or in a group with nothing but other exits."""
    members = members_of(error)
    return all(isinstance(member, SystemExit) for member in members) and any(
        isinstance(member, EntryEnd) for member in members
    )
