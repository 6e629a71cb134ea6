"""The lane ``bytes``: what a program writes is passed on as it comes, and what the host sends is written to its stdin.

Each message from the program is ``{"stdout": b"…"}`` or ``{"stderr": b"…"}``. Each message to it is bytes, or `None`,
which closes its stdin.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from spindle_trio.program._output import write_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spindle_trio.child import ProcessContext
    from spindle_trio.program._output import ProgramOutput


class ByteLane:
    """Bytes both ways, each as fast as its reader."""

    def __init__(self, process: ProcessContext, stdin: int, outputs: Mapping[str, ProgramOutput]) -> None:
        """Begin.

        Args:
            process: the context of the shim.
            stdin: the writing end of the program's stdin, non-blocking.
            outputs: the program's streams, by their names.
        """
        self._process = process
        self._stdin = stdin
        self._outputs = outputs
        # From the beginning: what the host sends meanwhile waits.
        self._messages = process.messages()

    async def read(self) -> None:
        """Send each chunk."""
        async with trio.open_nursery() as nursery:
            for name, output in self._outputs.items():
                nursery.start_soon(self._pass_on, name, output)

    async def _pass_on(self, name: str, output: ProgramOutput) -> None:
        while data := await output.receive_some():
            await self._process.send({name: data})

    async def write(self) -> None:
        """Write each message. What finds the program's stdin closed is dropped, as on any pipe."""
        async for message in self._messages:
            if message is None:
                self._close_stdin()
            else:
                await write_all(self._stdin, _as_bytes(message))

    def _close_stdin(self) -> None:
        """Close the program's stdin; the descriptor stays the shim's to close."""
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, self._stdin, inheritable=False)
        os.close(null)


def _as_bytes(message: object) -> bytes:
    assert isinstance(message, bytes), "the host checks what is sent"
    return message
