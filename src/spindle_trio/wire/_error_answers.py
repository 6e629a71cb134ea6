"""Error answers: how an exception travels, so that the other end can raise the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from spindle_trio._errors import (
    CallError,
    CallFailedError,
    CallTimeoutError,
    DuplicateKeyError,
    EntryError,
    KeyLostError,
    LaunchError,
    LocalProtocolError,
    PayloadError,
    PeerProtocolError,
    ProcessAccessError,
    ProcessLimitError,
    ProcessLostError,
    ResourceLimitError,
    SandboxError,
    SpawnError,
    SpawnRefusedError,
    SpindleError,
    StartupCancelledError,
    StartupFailedError,
    StartupTimeoutError,
    UnknownMethodError,
    UserRequiredError,
)
from spindle_trio._model import CallFailure, PostMortem, ProcessInfo, ProcessSendFailed, Response


def error_response(request_id: str, error: Exception) -> Response:
    """Build the error answer to a request, so that the other end can raise the same."""
    info: ProcessInfo | None = None
    if isinstance(error, SpawnError):
        info = error.info
    elif isinstance(error, DuplicateKeyError):
        info = error.existing
    answer = Response(
        request_id,
        result=error.result if isinstance(error, StartupFailedError) else None,
        error=str(error) or type(error).__name__,
        error_type=type(error).__name__,
        info=info,
        limit=error.limit if isinstance(error, ProcessLimitError) else None,
    )
    match error:
        case CallFailedError():
            return attrs.evolve(
                answer, failure=CallFailure(error.error_type, error.text, error.traceback, error.code, error.data)
            )
        case UnknownMethodError():
            return attrs.evolve(answer, known=error.known)
        case ProcessLostError():
            return attrs.evolve(answer, info=error.info, post_mortem=error.post_mortem, handed_over=error.handed_over)
        case _:
            return answer


def exception_from(response: Response) -> SpindleError:
    """Build the exception of an error answer; a `SpindleError` if its class is unknown here."""
    text = response.error or "the request failed"
    name = response.error_type or ""
    if response.info is not None:
        if name == DuplicateKeyError.__name__:
            return DuplicateKeyError(text, response.info)
        if name == StartupFailedError.__name__:
            return StartupFailedError(text, info=response.info, result=response.result)
        if name in _SPAWN_ERRORS:
            return _SPAWN_ERRORS[name](text, info=response.info)
        if name == ProcessLostError.__name__:
            return lost_from(response, response.info, None)
    if name == CallFailedError.__name__:
        # Of a failure that is longer than a line only the error is left.
        failure = response.failure or CallFailure("", text)
        failed = CallFailedError(
            text,
            error_type=failure.error_type,
            text=failure.text,
            traceback=failure.traceback,
            code=failure.code,
            data=failure.data,
        )
        if failure.traceback:
            failed.add_note(f"In the process:\n{failure.traceback}")
        return failed
    if name == UnknownMethodError.__name__:
        return UnknownMethodError(text, known=response.known or ())
    if name == ProcessLimitError.__name__ and response.limit is not None:
        return ProcessLimitError(text, response.limit)
    return _PLAIN_ERRORS.get(name, SpindleError)(text)


def lost_from(response: Response, info: ProcessInfo, post_mortem: PostMortem | None) -> ProcessLostError:
    """Build the error of a call whose process has ended.

    Args:
        response: the answer.
        info: what is known of the process here, if the answer does not say.
        post_mortem: the same.
    """
    return ProcessLostError(
        response.error or "the process has ended",
        info=response.info or info,
        post_mortem=response.post_mortem or post_mortem,
        handed_over=response.handed_over is not False,
    )


def send_failure(process_id: str, error: Exception) -> ProcessSendFailed:
    """Build the notice for a payload that did not reach its process."""
    size, limit = (error.size, error.limit) if isinstance(error, PayloadError) else (None, None)
    text = str(error) or type(error).__name__
    return ProcessSendFailed(process_id, text, type(error).__name__, size=size, limit=limit)


_SPAWN_ERRORS: Final[Mapping[str, type[SpawnError]]] = {
    kind.__name__: kind for kind in (SpawnError, LaunchError, StartupTimeoutError, StartupCancelledError)
}
_PLAIN_ERRORS: Final[Mapping[str, type[SpindleError]]] = {
    kind.__name__: kind
    for kind in (
        CallError,
        CallTimeoutError,
        SpawnRefusedError,
        EntryError,
        KeyLostError,
        ResourceLimitError,
        SandboxError,
        UserRequiredError,
        ProcessAccessError,
        PayloadError,
        LocalProtocolError,
        PeerProtocolError,
    )
}
