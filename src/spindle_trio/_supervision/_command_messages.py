"""What may be sent to a command, by its lane. Loaded at the first message to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spindle_trio._errors import PayloadError
from spindle_trio._model._command import Command
from spindle_trio.program._json_rpc import problem_of_message, problem_of_params

if TYPE_CHECKING:
    from spindle_trio._model import JsonValue


def check_message(command: Command, payload: JsonValue) -> None:
    """Refuse a message that a command's program cannot be given.

    Args:
        command: the command.
        payload: is JSON-safe.

    Raises:
        PayloadError: says what may be sent.
    """
    match command.lane:
        case "none":
            raise PayloadError(
                f"payload: the command {command.argv[0]!r} takes no messages; to send it some, spawn it with a lane: "
                "Command(…, lane='lines')"
            )
        case "bytes":
            problem = _problem_of_bytes(payload)
        case "lines":
            problem = _problem_of_line(payload)
        case _:
            problem = problem_of_message(payload)
    if problem is not None:
        raise PayloadError(f"payload: {problem}")


def check_params(command: Command, params: object) -> None:
    """Refuse the payload of a call that can be no params of a request.

    Args:
        command: the command.
        params: the payload.

    Raises:
        PayloadError: says what they may be.
    """
    problem = problem_of_params(params) if command.lane.startswith("jsonrpc") else None
    if problem is not None:
        raise PayloadError(f"payload: {problem}")


def _problem_of_bytes(payload: object) -> str | None:
    if payload is None or isinstance(payload, bytes | bytearray | memoryview):
        return None
    return f"a message to a program that takes bytes is bytes, or None to close its stdin, not {type(payload).__name__}"


def _problem_of_line(payload: JsonValue) -> str | None:
    if not isinstance(payload, str):
        return f"a message to a program that reads lines is a str, not {type(payload).__name__}"
    if "\n" in payload or "\r" in payload:
        return "a message to a program that reads lines is one line, without '\\n' and '\\r'; send several"
    return None
