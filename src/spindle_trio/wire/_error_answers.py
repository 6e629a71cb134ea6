"""Error answers: how an exception travels, so that the other end can raise the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spindle_trio._errors import (
    DuplicateKeyError,
    EntryError,
    LaunchError,
    LocalProtocolError,
    PayloadError,
    PeerProtocolError,
    ProcessAccessError,
    ProcessLimitError,
    SpawnError,
    SpawnRefusedError,
    SpindleError,
    StartupCancelledError,
    StartupFailedError,
    StartupTimeoutError,
    UserRequiredError,
)
from spindle_trio._model import ProcessInfo, ProcessSendFailed, Response


def error_response(request_id: str, error: Exception) -> Response:
    """Build the error answer to a request, so that the other end can raise the same."""
    info: ProcessInfo | None = None
    if isinstance(error, SpawnError):
        info = error.info
    elif isinstance(error, DuplicateKeyError):
        info = error.existing
    return Response(
        request_id,
        result=error.result if isinstance(error, StartupFailedError) else None,
        error=str(error) or type(error).__name__,
        error_type=type(error).__name__,
        info=info,
        limit=error.limit if isinstance(error, ProcessLimitError) else None,
    )


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
    if name == ProcessLimitError.__name__ and response.limit is not None:
        return ProcessLimitError(text, response.limit)
    return _PLAIN_ERRORS.get(name, SpindleError)(text)


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
        SpawnRefusedError,
        EntryError,
        UserRequiredError,
        ProcessAccessError,
        PayloadError,
        LocalProtocolError,
        PeerProtocolError,
    )
}
