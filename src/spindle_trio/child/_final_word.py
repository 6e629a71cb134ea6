"""The frames that end a child's control lane, and how an entry's end is put into words. Both runtimes use it.

Standard library only; `traceback` is loaded when there is one to show.
"""

from __future__ import annotations

from spindle_trio._frames import encode_body
from spindle_trio._payload import check_payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio.child._facts import ProcessFacts

FAILURE_BYTES = 64 * 1024
"""Bytes of UTF-8 that the text of one failure may have, its traceback included."""

_FRAME_NAMES_BYTES = 100
"""Bytes that a `fail` frame needs beside its text."""


def encode_ready() -> bytes:
    """Write the frame that says: the entry has started up."""
    return encode_body({"type": "ready"})


def encode_complete(result: object, messages: int, facts: ProcessFacts) -> bytes:
    """Write the frame that says: the entry has done its work.

    Args:
        result: what it came to.
        messages: how many messages the child has put on its messages lane so far.
        facts: have the bounds.

    Raises:
        PayloadError: the result is not JSON-safe or over a limit.
    """
    check_payload(result, facts.bounds, "result")
    return encode_body({"type": "complete", "result": result, "messages": messages}, facts.frame_bytes, "result")


def encode_fail(error: str, messages: int, facts: ProcessFacts) -> bytes:
    """Write the frame that says: the entry cannot do its work. A text that no frame could carry is cut in the middle.

    Args:
        error: why.
        messages: how many messages the child has put on its messages lane so far.
        facts: have the bounds.
    """
    # In JSON one byte of text may become six.
    room = min(FAILURE_BYTES, max(0, facts.frame_bytes - _FRAME_NAMES_BYTES) // 6)
    if facts.bounds.text_bytes is not None:
        room = min(room, facts.bounds.text_bytes)
    return encode_body({"type": "fail", "error": _cut_middle(error, room), "messages": messages})


def encode_stopped(messages: int) -> bytes:
    """Write the frame that says: the runtime has ended the entry because of a stop."""
    return encode_body({"type": "stopped", "messages": messages})


def encode_exiting(messages: int, code: int) -> bytes:
    """Write the last frame: all is done, and the process would now exit with this code."""
    return encode_body({"type": "exiting", "messages": messages, "code": code})


def describe_error(error: BaseException) -> str:
    """Put an exception into words: ``Type: message``, and below that its traceback from the entry's own code on.

    Args:
        error: what the entry, or one of its handlers, has raised; a group shows all that it holds.
    """
    _strip_runtime(error)
    message = _text_of(error, "(its message could not be made)")
    name = type(error).__qualname__
    try:
        import traceback

        details = "".join(traceback.format_exception(error)).rstrip()
    # Groups within groups, deeper than the interpreter can follow; or a file beside the entry that is called like
    # something which `traceback` loads.
    except BaseException:  # noqa: ASYNC103  # as above
        details = "(its traceback could not be made)"
    return f"{name}: {message}\n{details}" if message else f"{name}\n{details}"


def system_exit_code(error: BaseException, report: Callable[[str], None]) -> int | None:
    """Tell the code with which an exception exits the program, or `None` if it does not.

    A group exits if all that is in it does; of several codes the first that is not 0 counts. A code that is no integer
    is reported and counts as 1, as everywhere in Python.
    """
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF  # what the system makes of it
        report(_text_of(error.code, "(its exit code could not be shown)"))
        return 1
    members = members_of(error)
    if all(isinstance(member, SystemExit) for member in members):
        codes = [system_exit_code(member, report) for member in members]
        return next((code for code in codes if code), 0)
    return None


def members_of(error: BaseException) -> list[BaseException]:
    """List what is in a group, and in the groups in it; without recursion, for an entry may nest them at will."""
    members: list[BaseException] = []
    remaining = [error]
    while remaining:
        member = remaining.pop()
        if isinstance(member, BaseExceptionGroup):
            remaining += reversed(member.exceptions)
        else:
            members.append(member)
    return members


def _text_of(value: object, otherwise: str) -> str:
    """Return a value of the entry's as text, whatever its `__str__` does: it is looked at to end the entry in order."""
    try:
        return str(value)
    except BaseException:  # noqa: ASYNC103  # no Trio runs in a `__str__`
        return otherwise  # noqa: ASYNC104  # as above


def _strip_runtime(error: BaseException) -> None:
    """Take the library's own frames off the head of the traceback: they tell the author of an entry nothing."""
    trace = error.__traceback__
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("spindle_trio."):
        trace = trace.tb_next
    if trace is not None:
        error.__traceback__ = trace


def _cut_middle(text: str, max_bytes: int) -> str:
    """Return a text of at most so many bytes of UTF-8: its head names the error, its end has the innermost frame.

    Lone surrogates, which no frame can carry, are escaped.
    """
    data = text.encode(errors="backslashreplace")
    if len(data) > max_bytes:
        note = f"\n[… {len(data) - max_bytes} bytes and more are left out here …]\n".encode()
        half = max(0, max_bytes - len(note)) // 2
        data = (data[:half] + note + data[len(data) - half :])[:max_bytes]
    return data.decode(errors="ignore")
