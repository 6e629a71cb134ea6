"""What log records about a process have as attributes, beside their text."""

from __future__ import annotations

from typing import Protocol


class _Known(Protocol):
    """What is known of a process: a snapshot, an event, or who it is."""

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
    """Put together the `extra` of a log record; what is not known of a process is `None`.

    Args:
        worker: the name of the worker.
        process: what is known of the process, or its id alone; `None` for a record about the worker.
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
