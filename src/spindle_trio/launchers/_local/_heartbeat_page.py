"""The host's side of the page that it shares with a child: heartbeats up, the stop flag down, stacks at the end.

A page is the first memory page of a sealed memfd, read as native doubles. Word 0 is the monotonic time of the latest
heartbeat in seconds, and 0 before the first; only the child writes it. Word 1 is 1 once a stop was requested; only the
host writes it. Then comes the dump area, where a process leaves the stacks of its threads before it is killed, or when
it crashes. It may hold anything else as well, and is read as text up to the first zero byte.
`spindle_trio._linux._shared_page` is the other side.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from pathlib import Path
from typing import Final

import trio

from spindle_trio._linux._shared_page import DUMP_BYTES, DUMP_OFFSET, make_page

__all__ = ["HeartbeatPage"]

_BEAT: Final = 0
_STOP: Final = 1

_FRAME: Final = '  File "'
_RUNTIME_FRAME: Final = f"{_FRAME}{Path(__file__).resolve().parents[2]}{os.sep}"


class HeartbeatPage:
    """One shared page, mapped into this program."""

    def __init__(self, fd: int | None = None) -> None:
        """Make an empty page, or map one that a fork server has made.

        Args:
            fd: the server's page; this object owns it from now on.

        Raises:
            OSError: the system has no memory or no descriptor left.
        """
        self.fd: int = make_page() if fd is None else fd
        """The descriptor to pass to the child; `close_fd` then closes it, and the mapping stays."""
        try:
            self._map = mmap.mmap(self.fd, DUMP_OFFSET + DUMP_BYTES)
        except BaseException:
            os.close(self.fd)
            raise
        self._words = memoryview(self._map).cast("d")
        self._last_value = 0.0
        self._seen_value = 0.0
        self._seen_beat_at = -math.inf

    def last_heartbeat(self) -> float:
        """Return when the child last beat, on Trio's clock in seconds; `-math.inf` before the first."""
        value = self._last_value if self._map.closed else self._words[_BEAT]
        if math.isnan(value) or value == 0:
            return -math.inf
        # Convert each heartbeat once: this program may lose the processor between reading the two clocks, and the same
        # heartbeat would seem later at the next look.
        if value != self._seen_value:
            self._seen_value = value
            # By age, since Trio's clock has an offset of its own. A time in the future counts as the moment when it is
            # first seen: counting it as now at every look would let a child beat once and for all.
            age = max(0.0, time.monotonic() - value)
            self._seen_beat_at = trio.current_time() - age
        return self._seen_beat_at

    def request_stop(self) -> None:
        """Mark a stop request."""
        if not self._map.closed:
            self._words[_STOP] = 1.0

    def dump(self) -> str | None:
        """Return the text in the dump area; `None` if there is none, or once the page is closed."""
        if self._map.closed or not self._map[DUMP_OFFSET]:
            return None
        text = self._map[DUMP_OFFSET:].partition(b"\0")[0].decode(errors="replace")
        return without_runtime(text.strip()) or None

    def close_fd(self) -> None:
        """Close the descriptor after passing it on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Unmap the page; the last heartbeat can still be read."""
        self.close_fd()
        if not self._map.closed:
            self._last_value = self._words[_BEAT]
            self._words.release()
            self._map.close()


def without_runtime(dump: str) -> str:
    """Leave out the library's own frames at the outer end of each stack: they do not help the author of an entry.

    Args:
        dump: stacks as `faulthandler` writes them: each after a line of its own, innermost frame first.
    """
    kept: list[str] = []
    outer: list[str] = []
    for line in dump.split("\n"):
        if line.startswith(_RUNTIME_FRAME):
            outer.append(line)
            continue
        if line.startswith(_FRAME) or not (kept and kept[-1].startswith(_FRAME)):
            kept += outer  # keep them if they called something, or if the stack has no other frame
        outer.clear()
        kept.append(line)
    if not (kept and kept[-1].startswith(_FRAME)):
        kept += outer
    return "\n".join(kept)
