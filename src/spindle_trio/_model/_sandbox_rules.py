"""A sandbox as a launcher gets it: a frozen value."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from spindle_trio._model._field_docs import show_fields

__all__ = ["SandboxRules"]


@show_fields
@attrs.frozen
class SandboxRules:
    """A sandbox with absolute paths, of which no part is a link, as a process gets it."""

    read: Sequence[str]
    """What may be read and run. A path below ``/proc/self`` is that of the process itself."""
    write: Sequence[str]
    """What may be changed, and read and run."""
    listed: Sequence[str] = ()
    """Folders whose names may be listed, and those in them, though not all that is there may be read."""
    network: str = "none"
    """As `Sandbox.network`."""
    subprocesses: bool = True
    """As `Sandbox.subprocesses`."""
    private_read: bool = False
    """Whether the process gets a private folder that it may read."""
    private_write: bool = False
    """Whether it gets one that it may change."""
    notifies: bool = False
    """Whether it may send Unix datagrams by path, whatever `network` says: a command that so says that it is ready."""
