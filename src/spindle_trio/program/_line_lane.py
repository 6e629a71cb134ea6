"""The lane ``lines``: each line of a program's stdout is a message, and each message a line of its stdin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from spindle_trio._errors import PayloadError
from spindle_trio.child._process import report
from spindle_trio.program._output import LineCutter, write_all

if TYPE_CHECKING:
    from spindle_trio.child import ProcessContext
    from spindle_trio.program._output import ProgramOutput


class LineLane:
    """Lines both ways, each as fast as its reader."""

    def __init__(self, process: ProcessContext, stdin: int, stdout: ProgramOutput) -> None:
        """Begin.

        Args:
            process: the context of the shim.
            stdin: the writing end of the program's stdin, non-blocking.
            stdout: the program's.
        """
        self._process = process
        self._stdin = stdin
        self._stdout = stdout
        self._most_bytes = process._controls.facts.frame_bytes
        # From the beginning: what the host sends meanwhile waits.
        self._messages = process.messages()

    async def read(self) -> None:
        """Send each line; fails the process at one that is too long."""
        cutter = LineCutter(self._most_bytes)
        while data := await self._stdout.receive_some():
            for line in cutter.feed(data):
                await self._send(line)
            if cutter.is_too_long:
                self._refuse_line()
                return
        rest = cutter.take_rest()
        if rest:
            await self._send(rest)

    def _refuse_line(self) -> None:
        self._process.fail(
            f"the program has written a line of more than {self._most_bytes} bytes to its stdout; a message "
            "may have no more (Limits.frame_bytes)"
        )

    async def _send(self, line: bytes) -> None:
        if len(line) > self._most_bytes:
            self._refuse_line()
            return
        text = line.decode(errors="replace")
        try:
            try:
                self._process.send_nowait(text)
            except trio.WouldBlock:
                await self._process.send(text)
        except PayloadError as error:
            self._process.fail(f"the program has written a line that can be no message to its stdout: {error}")

    async def write(self) -> None:
        """Write each message; those that come after the program has closed its stdin are dropped, and counted."""
        dropped = 0
        try:
            async for message in self._messages:
                if not dropped and await write_all(self._stdin, f"{message}\n".encode(errors="replace")):
                    continue
                dropped += 1
                if dropped == 1:
                    report("spindle_trio: the program has closed its stdin; messages to it are dropped from now on")
        finally:
            if dropped:
                report(f"spindle_trio: {dropped} messages found the program's stdin closed")
