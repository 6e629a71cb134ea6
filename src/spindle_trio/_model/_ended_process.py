"""What a host remembers of a process that has ended: a frozen value."""

from __future__ import annotations

import attrs

from spindle_trio._model._field_docs import show_fields
from spindle_trio._model._post_mortem import PostMortem
from spindle_trio._model._values import ProcessInfo


@show_fields
@attrs.frozen
class EndedProcess:
    """A process that has ended, of any worker of the host."""

    worker: str
    """The name of its worker."""
    info: ProcessInfo
    """Its last snapshot. An error of more than 64 Ki characters is cut."""
    post_mortem: PostMortem | None
    """Explains an end that nobody asked for; each of its texts is cut where the error would be."""
