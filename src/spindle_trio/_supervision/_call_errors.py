"""The errors of calls: each says what happened, in which process, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from spindle_trio._errors import CallError, CallFailedError, CallTimeoutError, ProcessLostError, UnknownMethodError
from spindle_trio._model._calls import too_late, within
from spindle_trio._supervision._snapshots import take_snapshot

if TYPE_CHECKING:
    from spindle_trio._protocol._call_answers import Failure
    from spindle_trio._supervision._process_record import ProcessRecord

_PYTHON: Final = ("on_call", "a `run` or `default`")
_JAVASCRIPT: Final = ("onCall", "a default export or `run`")

E = TypeVar("E", bound=CallError)


def failure_error(record: ProcessRecord, method: str, failure: Failure) -> CallError:
    """Make the error for what a process says about a call."""
    if failure.known is not None:
        names = ", ".join(map(repr, failure.known))
        text = f"{_name(record)} has no handler of {method!r}; it has {names or 'none'}"
        return _concerning(UnknownMethodError(text, known=failure.known), record, method)
    if failure.is_cancelled:
        error_type, words = "Cancelled", "its handler was cancelled, and the caller had not asked for that"
    else:
        error_type, words = failure.error_type, failure.text
    about = error_type if failure.code is None else f"{error_type} {failure.code}"
    said = f"{about}: {words}" if words else about
    text = f"{method!r} failed in {_name(record)}: {said}"
    error = CallFailedError(
        text, error_type=error_type, text=words, traceback=failure.traceback, code=failure.code, data=failure.data
    )
    if failure.traceback:
        error.add_note(f"In the process:\n{failure.traceback}")
    return _concerning(error, record, method)


def timeout_error(record: ProcessRecord, method: str, timeout: float, why: str | None) -> CallTimeoutError:
    """Make the error for a call whose time is over.

    Args:
        record: the process.
        method: what was called.
        timeout: how long the call had.
        why: it had not begun, if it certainly had not.
    """
    text = too_late(method, record.process_id, record.identity.entry, within(timeout))
    return _concerning(CallTimeoutError(f"{text}; {why}" if why else text), record, method)


def lost_error(record: ProcessRecord, method: str, *, handed_over: bool) -> ProcessLostError:
    """Make the error for a call that its process does not answer any more, or does not take."""
    info = take_snapshot(record)
    if not info.state.is_terminal:
        text = f"{_name(record)} is {info.state} and takes no calls any more: {method!r} was not sent"
    else:
        end = f"{info.state}: {info.error}" if info.error else str(info.state)
        what = "may have begun, and is not repeated" if handed_over else "was not sent"
        text = f"{_name(record)} has ended ({end}); its call of {method!r} {what}"
    error = ProcessLostError(text, info=info, post_mortem=record.post_mortem, handed_over=handed_over)
    return _concerning(error, record, method)


def no_calls_error(record: ProcessRecord, method: str) -> UnknownMethodError:
    """Make the error for a call to a process that takes none."""
    names = _JAVASCRIPT if record.identity.entry.endswith((".js", ".mjs", ".cjs")) else _PYTHON
    advice = "register a handler with process.{}; `calls` is read only of a module without {}".format(*names)
    if record.command is not None:
        advice = "its program is called over JSON-RPC, if it speaks that: Command(…, lane='jsonrpc')"
    elif record.takes_calls is None:
        advice = "its runtime or its launcher speaks protocol 1, which has no calls"
    error = UnknownMethodError(f"{_name(record)} takes no calls, and so no {method!r}: {advice}")
    return _concerning(error, record, method)


def too_many_error(record: ProcessRecord, method: str, most: int) -> CallError:
    """Make the error for a call beyond the bound."""
    text = f"{_name(record)} has not ended {most} calls; {method!r} was not sent: call no faster than it answers"
    return _concerning(CallError(text), record, method)


def _concerning(error: E, record: ProcessRecord, method: str) -> E:
    return error.concerning(method, entry=record.identity.entry, process_id=record.process_id)


def _name(record: ProcessRecord) -> str:
    return f"process {record.process_id} ({record.identity.entry})"
