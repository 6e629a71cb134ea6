"""Compares what a worker heard with what has been recorded.

What has to be the same:

* *Events and answers*, those of all processes together, in this order. Of an error only that there is one: its text is
  no part of the contract.
* *The messages of each process*, in this order. How they lie between events and answers is not compared, since those
  overtake messages here (`notes/protocol.md`).
* *Times*: what was recorded as one time is one time, and later ones are not earlier, for each process. Whether a
  process has beaten since it was ready is as recorded.

What nobody but this host says (`errorType`, `info` and `limit` of an answer, `postMortem`, `messages`,
`peakMemory` and `processorMs` of an event)
is left out; the tests of the worker protocol see to it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from conformance.recording import LIFECYCLE, MESSAGE, Output

LONG_TEXT: Final = 2000
"""Characters from which on a text is shown by its length and its ends."""

OURS_ALONE: Final = {"errorType", "info", "limit", "postMortem", "messages", "peakMemory", "processorMs"}

_LABEL: Final = re.compile(r"<(P\d+)\.[\w*]+>")

ANY_BEAT: Final = "*"
"""The label of a heartbeat that may have come at any time since the process was ready."""


class MismatchError(AssertionError):
    """The observed events differ from the expected ones."""


@attrs.define
class _Times:
    """Which time each label of the recording stands for."""

    found: dict[str, str] = attrs.field(factory=dict)

    def note(self, label: str, time: object, where: str) -> None:
        if not isinstance(time, str) or self.found.setdefault(label, time) != time:
            raise MismatchError(f"{where}: {label} is {self.found.get(label)}, and here {time}")

    def check_order(self) -> None:
        """Look whether labels follow each other in time as they do in the recording."""
        latest: dict[str, str] = {}
        for label, time in self.found.items():
            process = _LABEL.fullmatch(label)[1]  # type: ignore[index]  # only labels are noted
            if time < latest.get(process, ""):
                raise MismatchError(f"{label} is {time}, before {latest[process]}")
            latest[process] = time


def compare(expected: Sequence[Output], heard: Sequence[Output], *, measured: bool = False) -> None:
    """Compare, and raise `MismatchError` that says where they differ.

    Args:
        expected: processes and times by their labels.
        heard: the same, or as the host said it.
        measured: how often a process repeats a message depends on how much time it had, so once is enough.
    """
    expected, heard = [*map(_essence, expected)], [*map(_essence, _named(heard))]
    times = _Times()
    _match(_without_messages(expected), _without_messages(heard), "", times)
    times.check_order()
    wanted, found = _messages(expected), _messages(heard)
    if measured:
        wanted, found = _each_once(wanted), _each_once(found)
    _match(wanted, found, "messages", times)


def _named(outputs: Sequence[Output]) -> list[Output]:
    """Name processes P1, P2, … in order of their start."""
    text = json.dumps(outputs)
    events = [output["event"] for output in outputs if output["type"] == LIFECYCLE]
    begun = [event["processId"] for event in events if event["state"] == "starting"]
    for number, process_id in enumerate(begun, 1):
        text = text.replace(json.dumps(process_id), f'"P{number}"')
    named: list[Output] = json.loads(text)
    return named


def _essence(value: Any) -> Any:
    match value:
        case {"$string": True}:
            return value
        case dict():
            essential = {name: _essence(inner) for name, inner in value.items() if name not in OURS_ALONE}
            if "error" in essential:
                essential["error"] = True
            return {name: inner for name, inner in essential.items() if inner != {"$js": "undefined"}}
        case list():
            return [_essence(inner) for inner in value]
        case str() if len(value) > LONG_TEXT:
            return {"$string": True, "length": len(value), "head": value[:8], "tail": value[-8:]}
    return value


def _without_messages(outputs: Sequence[Output]) -> list[Output]:
    return [output for output in outputs if output["type"] != MESSAGE]


def _messages(outputs: Sequence[Output]) -> dict[str, list[Output]]:
    found: dict[str, list[Output]] = {}
    for output in outputs:
        if output["type"] == MESSAGE:
            found.setdefault(output["processId"], []).append(output)
    return found


def _each_once(messages: Mapping[str, Sequence[Output]]) -> dict[str, list[Output]]:
    return {process: [message for message, _ in itertools.groupby(said)] for process, said in messages.items()}


def _match(expected: Any, heard: Any, where: str, times: _Times) -> None:
    match expected, heard:
        case str(), _ if _LABEL.fullmatch(expected):
            times.note(expected, heard, where)
        case dict(), dict():
            if expected.keys() != heard.keys():
                raise MismatchError(f"{where}: {_shown(heard)} instead of {_shown(expected)}")
            for name, value in expected.items():
                if name == "lastHeartbeatAt":
                    _match_beat(expected, heard, where, times)
                else:
                    _match(value, heard[name], f"{where}.{name}", times)
        case list(), list():
            for index, (value, ours) in enumerate(itertools.zip_longest(expected, heard)):
                _match(value, ours, f"{where}[{index}]", times)
        case _ if type(expected) is not type(heard) or expected != heard:
            raise MismatchError(f"{where}: {_shown(heard)} instead of {_shown(expected)}")


def _match_beat(expected: Mapping[str, str], heard: Mapping[str, str], where: str, times: _Times) -> None:
    beat, ready = heard["lastHeartbeatAt"], heard["readyAt"]
    if f".{ANY_BEAT}>" in expected["lastHeartbeatAt"]:
        is_right = beat >= ready
    else:
        is_right = (beat != ready) == (expected["lastHeartbeatAt"] != expected["readyAt"])
        times.note(expected["lastHeartbeatAt"], beat, where)
    if not is_right:
        raise MismatchError(f"{where}: ready at {ready}, and has beaten at {beat}")


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONG_TEXT else f"{text[:LONG_TEXT]}…"


def with_times(outputs: Sequence[Output]) -> list[Output]:
    """Write a moment of its own for each label, as a host could have said it."""
    text = json.dumps(outputs)
    for moment, label in enumerate(_labels(text)):
        text = text.replace(label, f"2026-03-01T12:00:{moment:02}.000Z")
    written: list[Output] = json.loads(text)
    return written


def _labels(text: str) -> Iterator[str]:
    yield from dict.fromkeys(match[0] for match in _LABEL.finditer(text))
