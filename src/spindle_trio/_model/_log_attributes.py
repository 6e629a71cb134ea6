"""The attributes of log records about a process."""

from __future__ import annotations

from typing import Protocol


class _Known(Protocol):
    """A snapshot, an event or the identity of a process."""

    @property
    def process_id(self) -> str: ...
    @property
    def entry(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def user_id(self) -> str | None: ...


def log_attributes(worker: str | None, process: _Known | str | None) -> dict[str, str | None]:
    """Make the `extra` of a log record; unknown attributes are `None`.

    Args:
        worker: the name of the worker.
        process: the process, or only its id; `None` for a record about the worker.
    """
    if process is None or isinstance(process, str):
        return {"process_id": process, "entry": None, "kind": None, "key": None, "user_id": None, "worker": worker}
    return {
        "process_id": process.process_id,
        "entry": process.entry,
        "kind": process.kind,
        "key": process.key,
        "user_id": process.user_id,
        "worker": worker,
    }
