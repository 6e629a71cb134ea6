"""The sandbox of a command: the shim enters it once it has what it needs itself, and the program is born in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spindle_trio.child._confine import apply_sandbox, forbid_subprocesses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from spindle_trio._model import JsonValue


def enter_sandbox(rules: Mapping[str, JsonValue]) -> Callable[[], None] | None:
    """Put this process, which has one thread, into a sandbox.

    Returns:
        What the program has to do in its own process before its `exec`; `None` for nothing. The shim must start the
        program, so it cannot give up starting processes itself.

    Raises:
        OSError: the kernel refuses, or a path has become a link.
    """
    apply_sandbox({**rules, "subprocesses": True})
    return forbid_subprocesses if rules.get("subprocesses") is False else None
