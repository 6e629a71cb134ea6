"""Compares what processes printed with what has been recorded.

What an entry prints itself has to be the same. What the engine or the runtime say of an error they word as they like:
what was thrown has to be told somewhere, on stderr or in the terminal event.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conformance.recording import Output, Scenario

ENGINES_OWN = ("Bun v", "[Spindle backend process]")
"""How lines begin that no entry has printed."""

ERROR = "error: "
"""The beginning of a line in which the engine reports what was thrown."""


def lines_of_entries(scenario: Scenario) -> list[str]:
    """Return what the entries of a scenario print themselves."""
    return [line for line in scenario.child_output if not line.startswith((*ENGINES_OWN, ERROR))]


def check_printed(
    scenario: Scenario, outputs: Sequence[Output], printed: Sequence[str], *, told_by_node: str | None = None
) -> None:
    """Compare the lines of both streams, in any order.

    Args:
        scenario: what was played.
        outputs: what was heard.
        printed: the lines.
        told_by_node: how a line begins with which Node says what nobody says in the recording; see `settings`.
    """
    if told_by_node is not None:
        assert not scenario.child_output
        assert any(line.startswith(told_by_node) for line in printed)
        return
    thrown = [line.removeprefix(ERROR) for line in scenario.child_output if line.startswith(ERROR)]
    if thrown:
        errors = [output["event"].get("error", "") for output in outputs if "event" in output]
        for text in thrown:
            assert text in "\n".join([*printed, *errors])
    else:
        assert sorted(printed) == sorted(lines_of_entries(scenario))


@contextmanager
def printed_into(lines: list[str]) -> Iterator[None]:
    """Collect what processes print, which the host logs line by line."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(str(record.args[1]))  # type: ignore[index]  # an id and a line

    logger, handler = logging.getLogger("spindle_trio.process"), Collector()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
