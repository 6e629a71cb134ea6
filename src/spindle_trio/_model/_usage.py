"""What a process uses: a frozen value."""

from __future__ import annotations

import attrs

from spindle_trio._model._field_docs import show_fields

__all__ = ["Usage"]


@show_fields
@attrs.frozen
class Usage:
    """What a process uses at one moment, together with all that it has started. `None` is unknown."""

    memory: int | None = None
    """Bytes of memory."""
    pids: int | None = None
    """Processes and threads."""
    processor_seconds: float | None = None
    """Seconds of processor time until now."""
