"""The explanation of an end that nobody asked for: a frozen value that prints well."""

from __future__ import annotations

import textwrap
from typing import Final

import attrs

from spindle_trio._model._field_docs import show_fields

NO_HEARTBEAT: Final = "no heartbeat for"
"""The beginning of the watchdog's errors."""

_BEAT: Final = (
    "call process.heartbeat() more often, or process.beat_while_running() in an async entry; handlers in `calls` have "
    "no process: write run(process) with process.on_call, or spawn it with a longer heartbeat_timeout"
)


@show_fields
@attrs.frozen
class PostMortem:
    """Explains how a process ended, as far as the host knows. As text it is a few titled blocks."""

    error: str
    """What went wrong, in one line; only what the entry itself has given to `fail` may have several."""
    exit_status: str | None = None
    """The exit status, in words; `None` if it was abandoned or never launched."""
    traceback: str | None = None
    """The traceback of the exception that the entry raised."""
    stderr: str = ""
    """The last lines that it wrote to stderr."""
    since_heartbeat: float | None = None
    """Seconds from its last heartbeat until its end was settled, to the millisecond; `None` if it was never ready."""
    stacks: str | None = None
    """The Python stack of each of its threads, taken just before a watchdog's kill or left by a crash."""
    limit: str | None = None
    """The resource limit that it had reached, with figure and bound: ``memory: 512 MiB used of 512 MiB``."""

    denied: str | None = None
    """The access that its sandbox has denied, if it has named one:
    ``'/etc/shadow': its sandbox allows nothing there``."""

    def __repr__(self) -> str:
        return f"<PostMortem {self.error.partition(chr(10))[0]!r} {self.exit_status or 'no exit status'}>"

    def __str__(self) -> str:
        lines = [self.error]
        if self.exit_status is not None:
            lines.append(f"  exit status: {self.exit_status}")
        if self.limit is not None:
            lines.append(f"  resource limit: {self.limit}")
        if self.denied is not None:
            lines.append(f"  denied: {self.denied}")
        if self.since_heartbeat is not None:
            lines.append(f"  last heartbeat: {self.since_heartbeat:g} s before that")
            if self.error.startswith(NO_HEARTBEAT):
                lines.append(f"  what to do: {_BEAT}")
        for title, text in (
            ("traceback", self.traceback),
            ("last lines of stderr", self.stderr),
            ("stacks of all threads", self.stacks),
        ):
            if text:
                lines += [f"  {title}:", textwrap.indent(text.rstrip(), "    ")]
        return "\n".join(lines)
