"""What a caller asks of a process: checked before anything is sent, but for the payload."""

from __future__ import annotations

from spindle_trio._model import METHOD_BYTES, MOST_WINDOW, CallRequest, Overrun
from spindle_trio._model._values import is_number
from spindle_trio._protocol._payload import check_text


def check_request(request: CallRequest, *, is_stream: bool = False) -> CallRequest:
    """Return a request that has the right types and is within its bounds.

    Args:
        request: what the caller asks for.
        is_stream: whether it has a window.

    Raises:
        TypeError: the method is no plain str.
        ValueError: the method is empty, or the timeout, the overrun or the window is not one.
        PayloadError: the method is too long, or no text that a frame can carry.
    """
    method: object = request.method
    if type(method) is not str:
        raise TypeError(f"a method is the name of a handler, a plain str, not {method!r}")
    if not method:
        raise ValueError("a method is the name of a handler, and not empty")
    check_text("method", method, METHOD_BYTES)
    if not (is_number(request.timeout) and request.timeout > 0):
        raise ValueError(f"timeout must be a number of seconds, more than 0, or math.inf, not {request.timeout!r}")
    check_overrun(request.overrun)
    window: object = request.window
    if is_stream and not (type(window) is int and 1 <= window <= MOST_WINDOW):
        raise ValueError(f"window must be an integer from 1 to {MOST_WINDOW}, not {window!r}")
    return request


def check_overrun(overrun: Overrun) -> None:
    """Refuse another word than those of `Overrun`.

    Raises:
        ValueError: it is another.
    """
    if overrun not in ("leave", "kill"):
        raise ValueError(f"overrun must be 'leave' or 'kill', not {overrun!r}")
