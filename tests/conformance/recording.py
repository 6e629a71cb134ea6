"""The recordings of the reference host: one scenario a line in `scenarios.jsonl`, as data.

Each says what a worker asks for, step by step, what the entries are, and which messages the worker got. Where a later
version of that host answers otherwise, `outputs` is what that one says, and `first_outputs` what the earlier one said.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

FILE: Final = Path(__file__).with_name("scenarios.jsonl")

MESSAGE: Final = "backend_process_message"
LIFECYCLE: Final = "backend_process_lifecycle"
UNDELIVERED: Final = "backend_process_send_failed"

Output = dict[str, Any]
"""One message to the worker; processes are called P1, P2, … and times `<P1.t0>`, equal ones alike."""


@attrs.frozen
class Scenario:
    """One recording."""

    name: str
    user_id: str | None
    """Whose worker it is; `None` for an operator-scoped one, and blank for a user's without a user."""
    entry_files: Mapping[str, str]
    """Sources, by path below the worker's root."""
    steps: Sequence[Mapping[str, Any]]
    outputs: Sequence[Output]
    first_outputs: Sequence[Output]
    child_output: Sequence[str]
    """Lines that the process has printed."""

    def in_python(self, sources: Mapping[str, str]) -> Scenario:
        """Return the same with other entries, whose names end in ``.py`` wherever a step speaks of them."""
        files = {with_python_names(name): source for name, source in sources.items()}
        return attrs.evolve(self, entry_files=files, steps=with_python_names(self.steps))


def with_python_names(value: Any) -> Any:
    """Have the names of entries end in ``.py`` wherever they are spoken of."""
    return json.loads(re.sub(r'(entry|none)\.js( ?")', r"\1.py\2", json.dumps(value)))


@functools.cache
def scenarios() -> Mapping[str, Scenario]:
    """Read all recordings."""
    with FILE.open(encoding="utf-8") as lines:
        return {scenario.name: scenario for scenario in map(_read, lines)}


def _read(line: str) -> Scenario:
    data = json.loads(line)
    is_operators = data["scope"]["installScope"] == "operator"
    return Scenario(
        name=data["name"],
        user_id=None if is_operators else data["scope"]["installedByUserId"] or "",
        entry_files=data["entryFiles"],
        steps=data["steps"],
        outputs=data.get("outputsFixed", data["outputs"]),
        first_outputs=data["outputs"],
        child_output=data["childOutput"],
    )
