"""The frames that end a child's control lane, and the text for an entry's end. Both runtimes use it.

Standard library only; `traceback` is loaded when there is one to show.
"""

from __future__ import annotations

import os

from spindle_trio._protocol._frames import encode_body
from spindle_trio._protocol._payload import BinaryWalk, check_payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from spindle_trio.child._facts import ProcessFacts

FAILURE_BYTES = 64 * 1024
"""Bytes of UTF-8 in the text of one failure, traceback included, at most."""

MESSAGE_BYTES = 1000
"""Bytes of a message in an exception's one-line form, at most. The traceback has the whole message."""

MEMBERS = 3
"""How many members of a group its one-line form names, at most."""

NO_WORDS = "(an exception that cannot be shown)"
"""Stands for an exception whose own code, such as a `__str__` of a subclass of `str`, fails even here."""

_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

_NAMES_BYTES = 24
"""Bytes of text in the names of the fields that have the texts."""

_FRAME_NAMES_BYTES = 100
"""Bytes that a `fail` frame needs beside its texts."""


_MOST_CALLS = 65_536
"""How many calls a host has under way in one process at most; no larger number need be told."""


def encode_ready(facts: ProcessFacts, *, concurrency: int = 0) -> bytes:
    """Write the frame that says: the entry has started up.

    Args:
        facts: have the protocol.
        concurrency: how many calls it serves at a time, if it has a handler; a host of protocol 1 is not told.
    """
    if facts.protocol == 1:
        return encode_body({"type": "ready"})
    if concurrency:
        return encode_body(
            {"type": "ready", "protocol": 2, "calls": True, "concurrency": min(concurrency, _MOST_CALLS)}
        )
    return encode_body({"type": "ready", "protocol": 2})


def encode_takes_calls(concurrency: int) -> bytes:
    """Write the frame that says, after `ready`: the entry takes calls from now on, so many at a time."""
    return encode_body({"type": "calls", "concurrency": min(concurrency, _MOST_CALLS)})


def encode_complete(result: object, messages: int, facts: ProcessFacts) -> bytes:
    """Write the frame that says: the entry has done its work.

    Args:
        result: the entry's result.
        messages: how many messages the child has put on its messages lane so far.
        facts: have the bounds.

    Raises:
        PayloadError: the result is not JSON-safe or over a limit.
    """
    frame = {"type": "complete", "result": result, "messages": messages}
    if check_payload(result, facts.bounds, "result", BinaryWalk):
        from spindle_trio._protocol._binary import encode_binary

        return encode_binary(frame, facts.frame_bytes, "result")
    return encode_body(frame, facts.frame_bytes, "result")


def encode_failure(error: BaseException, messages: int, facts: ProcessFacts, before: str = "") -> bytes:
    """Write the frame that says: an exception has ended the entry.

    Args:
        error: the exception.
        messages: how many messages the child has put on its messages lane so far.
        facts: have the bounds.
        before: put before its one-line form.
    """
    return encode_fail(before + summarise_error(error), messages, facts, _traceback_of(error))


def encode_fail(error: str, messages: int, facts: ProcessFacts, traceback: str | None = None) -> bytes:
    """Write the frame that says: the entry cannot do its work. A text that no frame could carry is cut in the middle.

    Args:
        error: why.
        messages: how many messages the child has put on its messages lane so far.
        facts: have the bounds.
        traceback: of the exception that is the reason.
    """
    room = room_for_texts(facts)
    frame: dict[str, object] = {"type": "fail", "error": cut_middle(error, room), "messages": messages}
    room -= len(str(frame["error"]).encode())
    if traceback is not None and room > 0:
        frame["traceback"] = cut_middle(traceback, room)
    return encode_body(frame)


def failure_texts(
    error: BaseException, facts: ProcessFacts, *, has_traceback: bool = True
) -> tuple[str, str, str | None]:
    """Describe an exception by its type's name, its message and its traceback, cut to what a frame can carry.

    Args:
        error: the exception; the message of a group names its first members.
        facts: have the bounds.
        has_traceback: whether its traceback is wanted.
    """
    room = max(0, room_for_texts(facts) - _NAMES_BYTES)
    name = cut_middle(_name_of(error), min(room, MESSAGE_BYTES))
    room -= len(name.encode())
    try:
        text = _message_of(error)
        if isinstance(error, BaseExceptionGroup):
            text = f"{cut_middle(text, MESSAGE_BYTES)}{_shown_members(error)}"
        traceback = _traceback_of(error) if has_traceback else None
    except BaseException:  # noqa: ASYNC103  # no Trio runs in what an exception's class may define
        return name, cut_middle(NO_WORDS, room), None  # noqa: ASYNC104  # as above
    text = cut_middle(text, room)
    room -= len(text.encode())
    return name, text, cut_middle(traceback, room) if traceback is not None and room > 0 else None


def room_for_texts(facts: ProcessFacts) -> int:
    """Return how many bytes of text about a failure a frame can carry."""
    # One byte of text may take six in JSON.
    room = min(FAILURE_BYTES, max(0, facts.frame_bytes - _FRAME_NAMES_BYTES) // 6)
    if facts.bounds.text_bytes is None:
        return room
    return min(room, max(0, facts.bounds.text_bytes - _NAMES_BYTES))


def encode_stopped(messages: int) -> bytes:
    """Write the frame that says: the runtime has ended the entry because of a stop."""
    return encode_body({"type": "stopped", "messages": messages})


def encode_exiting(messages: int, code: int) -> bytes:
    """Write the last frame: everything is done, and the process would now exit with this code."""
    return encode_body({"type": "exiting", "messages": messages, "code": code})


def describe_error(error: BaseException) -> str:
    """Describe an exception: ``Type: message``, and below that its traceback from the entry's own code on.

    Args:
        error: raised by the entry or one of its handlers; a group shows all its members.
    """
    details = _traceback_of(error)
    message = _message_of(error)
    name = _name_of(error)
    return f"{name}: {message}\n{details}" if message else f"{name}\n{details}"


def summarise_error(error: BaseException) -> str:
    """Describe an exception in one line: ``Type: message (Traceback: file.py:12 in run)``, a group with members."""
    try:
        return _summary_of(error)
    except BaseException:  # noqa: ASYNC103  # no Trio runs in what an exception's class may define
        return NO_WORDS  # noqa: ASYNC104  # as above


def _summary_of(error: BaseException) -> str:
    message = cut_middle(_one_line(_message_of(error)), MESSAGE_BYTES)
    text = f"{_name_of(error)}: {message}" if message else _name_of(error)
    if isinstance(error, BaseExceptionGroup):
        text += _shown_members(error)
    else:
        text += _place_of(error)
    return _one_line(text)


def _shown_members(error: BaseException) -> str:
    members = members_of(error)
    shown = [summarise_error(member) for member in members[:MEMBERS]]
    return f" [{'; '.join(shown)}{'; …' if len(members) > MEMBERS else ''}]"


def system_exit_code(error: BaseException, report: Callable[[str], None]) -> int | None:
    """Return the code with which an exception exits the program, or `None` if it does not.

    A group exits if all its members do; of several codes the first that is not 0 counts. A code that is no int
    is reported and counts as 1, as everywhere in Python.
    """
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return int.__and__(error.code, 0xFF)  # what the system makes of it, and whatever a subclass would
        report(_text_of(error.code, "(its exit code could not be shown)"))
        return 1
    members = members_of(error)
    if all(isinstance(member, SystemExit) for member in members):
        codes = [system_exit_code(member, report) for member in members]
        return next((code for code in codes if code), 0)
    return None


def members_of(error: BaseException) -> list[BaseException]:
    """List the members of a group, and of groups in it. Without recursion, since an entry may nest them at will."""
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
    """Return an entry's value as text, whatever its `__str__` does: the orderly end of the entry needs it."""
    try:
        return str.__str__(str(value))  # nothing of a subclass
    except BaseException:  # noqa: ASYNC103  # no Trio runs in a `__str__`
        return otherwise  # noqa: ASYNC104  # as above


def _message_of(error: BaseException) -> str:
    return _text_of(error, "(its message could not be made)")


def _name_of(error: BaseException) -> str:
    # Without its metaclass, which may return anything.
    name: str = type.__dict__["__qualname__"].__get__(type(error))
    return name


def _one_line(text: str) -> str:
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())


def _traceback_of(error: BaseException) -> str:
    _strip_runtime(error)
    try:
        import traceback

        return "".join(traceback.format_exception(error)).rstrip()
    # Groups nested deeper than the interpreter can follow; or a file beside the entry with the name of a module that
    # `traceback` loads.
    except BaseException:  # noqa: ASYNC103  # as above
        return "(its traceback could not be made)"  # noqa: ASYNC104  # as above


def _place_of(error: BaseException) -> str:
    """Find the last frame of an exception in the user's own files, as ``file.py:12 in run``; empty if it has no frames.

    If all frames are in libraries, it is the call into the first of them: what went on inside helps nobody.
    """
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        file = code.co_filename
        if not (file.startswith("<frozen ") or _is_of_runtime(trace)):
            is_library = file.startswith(("<", _LIBRARY)) or any(part in file for part in _PACKAGES)
            if not is_library or not place:
                place = f" (Traceback: {os.path.basename(file)}:{trace.tb_lineno} in {code.co_name})"
        trace = trace.tb_next
    return place


def _is_of_runtime(trace: TracebackType) -> bool:
    name = trace.tb_frame.f_globals.get("__name__")
    return type(name) is str and name.startswith("spindle_trio.")


def _strip_runtime(error: BaseException) -> None:
    """Take the library's own frames off the head of the traceback: they do not help the author of an entry."""
    trace = error.__traceback__
    while trace is not None and _is_of_runtime(trace):
        trace = trace.tb_next
    if trace is not None:
        error.__traceback__ = trace


def cut_middle(text: str, max_bytes: int) -> str:
    """Cut a text to that many bytes of UTF-8, in the middle: its head names the error, its end has the innermost frame.

    Lone surrogates, which no frame can carry, are escaped.
    """
    data = text.encode(errors="backslashreplace")
    if len(data) > max_bytes:
        note = f"\n[… {len(data) - max_bytes} or more bytes omitted …]\n".encode()
        half = max(0, max_bytes - len(note)) // 2
        data = (data[:half] + note + data[len(data) - half :])[:max_bytes]
    return data.decode(errors="ignore")
