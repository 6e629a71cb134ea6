"""What each lane of a command does."""

from __future__ import annotations

from typing import Protocol


class Lane(Protocol):
    """What passes between a program's stdin and stdout, and the host."""

    async def read(self) -> None:
        """Take in the program's stdout, until it ends. It may end long before the program does."""

    async def write(self) -> None:
        """Write to the program's stdin what the host sends. Runs until it is cancelled."""
