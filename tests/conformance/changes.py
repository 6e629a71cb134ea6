"""Changes of what has been recorded into what is expected here, and the outputs that they put in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from conformance.comparing import ANY_BEAT
from conformance.recording import LIFECYCLE, MESSAGE, UNDELIVERED, Output, Scenario

Change = Callable[[Scenario, Sequence[Output]], list[Output]]
"""Changes what is expected."""

ENTRY: Final = "dist/entry.js"
OWNER: Final = "u-owner"

# ---- outputs


def event(process: str, state: str, previous: str | None = None, **more: Any) -> Output:
    """Write a lifecycle event; its time is its own, and named as in the recordings for the first two."""
    told = {"processId": process, "entry": ENTRY, "kind": ENTRY, "userId": OWNER, "state": state}
    if previous is not None:
        told["previousState"] = previous
    label = {"starting": "t0", "running": "t1"}.get(state, state)
    return {"type": LIFECYCLE, "event": told | {"at": f"<{process}.{label}>"} | more}


def info(process: str, **more: Any) -> Output:
    """Write the snapshot of a running process that has not beaten."""
    told = {"processId": process, "entry": ENTRY, "kind": ENTRY, "userId": OWNER, "state": "running"}
    ready = f"<{process}.t1>"
    return told | {"startedAt": f"<{process}.t0>", "readyAt": ready, "lastHeartbeatAt": ready} | more


def answer(request: str, result: object) -> Output:
    """Write an answer."""
    return {"type": "response", "requestId": request, "result": result}


def refusal(request: str) -> Output:
    """Write an answer that says why not."""
    return {"type": "response", "requestId": request, "error": True}


def begins(process: str, request: str, **more: Any) -> list[Output]:
    """Write all that is heard of a process until its spawn is answered."""
    return [
        event(process, "starting", **more),
        event(process, "running", "starting", **more),
        answer(request, info(process, **more)),
    ]


def message(process: str, payload: object) -> Output:
    """Write a message."""
    return {"type": MESSAGE, "processId": process, "payload": payload, "userId": OWNER}


def undelivered(process: str) -> Output:
    """Write the notice that a payload did not reach a process."""
    return {"type": UNDELIVERED, "processId": process, "error": True}


# ---- changes


def instead(*outputs: Output) -> Change:
    """Expect just these."""
    return lambda scenario, before: list(outputs)


def in_addition(*outputs: Output) -> Change:
    """Expect these, too, in the end."""
    return lambda scenario, before: [*before, *outputs]


def as_recorded_first(scenario: Scenario, before: Sequence[Output]) -> list[Output]:
    """Expect what the earlier version of that host said."""
    return list(scenario.first_outputs)


def without(is_unwanted: Callable[[Output], bool]) -> Change:
    """Leave some out."""
    return lambda scenario, before: [output for output in before if not is_unwanted(output)]


def is_heartbeat(output: Output) -> bool:
    """Whether it is the event that a heartbeat has there."""
    told = output.get("event", {})
    return told.get("state") == told.get("previousState") == "running"


def is_end_of(process: str) -> Callable[[Output], bool]:
    """Whether it is the terminal event of a process."""
    return lambda output: "exitReason" in output.get("event", {}) and output["event"]["processId"] == process


def is_message(payload: object) -> Callable[[Output], bool]:
    """Whether it is this message."""
    return lambda output: output["type"] == MESSAGE and output["payload"] == payload


def is_any_message(output: Output) -> bool:
    """Whether it is a message."""
    return output["type"] == MESSAGE


def is_answer_to(request: str) -> Callable[[Output], bool]:
    """Whether it is the answer to a request."""
    return lambda output: output.get("requestId") == request


def with_own_time_of_stopping(scenario: Scenario, before: Sequence[Output]) -> list[Output]:
    """Expect that a process has begun to stop at a time of its own."""
    return [
        {**output, "event": output["event"] | {"at": f"<{output['event']['processId']}.stopping>"}}
        if output.get("event", {}).get("state") == "stopping"
        else output
        for output in before
    ]


def at_the_end_of(process: str, changed: Mapping[str, object]) -> Change:
    """Expect other fields in a terminal event; those that are `None` not at all."""

    def change(scenario: Scenario, before: Sequence[Output]) -> list[Output]:
        return [_with_fields(output, changed) if is_end_of(process)(output) else output for output in before]

    return change


def _with_fields(output: Output, changed: Mapping[str, object]) -> Output:
    told = output["event"] | changed
    return {**output, "event": {name: value for name, value in told.items() if value is not None}}


def replaced(is_meant: Callable[[Output], bool], *outputs: Output) -> Change:
    """Expect other outputs in the place of one."""

    def change(scenario: Scenario, before: Sequence[Output]) -> list[Output]:
        (index,) = (index for index, output in enumerate(before) if is_meant(output))
        return [*before[:index], *outputs, *before[index + 1 :]]

    return change


def with_any_beat(scenario: Scenario, before: Sequence[Output]) -> list[Output]:
    """Expect that processes that are asked about may have beaten since they were ready."""
    return [
        {**output, "result": _beaten(output["result"])} if is_answer_about_live(output) else output for output in before
    ]


def is_answer_about_live(output: Output) -> bool:
    """Whether it is the answer to a `list` or a `get`: that to a spawn is as of `ready`."""
    return "result" in output and output["requestId"].startswith(("g", "l"))


def _beaten(result: Any) -> Any:
    match result:
        case list():
            return [_beaten(told) for told in result]
        case {"lastHeartbeatAt": _, "processId": process}:
            return result | {"lastHeartbeatAt": f"<{process}.{ANY_BEAT}>"}
    return result


def moved_behind(first: str, then: str) -> Change:
    """Expect an answer right behind another one."""

    def change(scenario: Scenario, before: Sequence[Output]) -> list[Output]:
        (moved,) = filter(is_answer_to(then), before)
        others = [output for output in before if output is not moved]
        (index,) = (index for index, output in enumerate(others) if is_answer_to(first)(output))
        return [*others[: index + 1], moved, *others[index + 1 :]]

    return change


def both(*changes: Change) -> Change:
    """Make one change after the other."""

    def change(scenario: Scenario, before: Sequence[Output]) -> list[Output]:
        for each in changes:
            before = each(scenario, before)
        return list(before)

    return change
