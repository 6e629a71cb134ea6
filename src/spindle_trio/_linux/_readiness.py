"""Waits until a descriptor is readable or writable, even if the system refuses to watch it.

The kernel needs memory for each descriptor that it watches. It may have none (`ENOMEM`), or none for this user
(`ENOSPC`). Then the waiting task polls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    import socket

LOOK_SECONDS: Final = 0.005
"""Seconds between two polls."""


async def wait_readable(file: int | socket.socket) -> None:
    """Wait until a read may succeed. The caller tries, and waits again if there is nothing to read."""
    try:
        await trio.lowlevel.wait_readable(file)
    except OSError:
        await trio.sleep(LOOK_SECONDS)


async def wait_writable(file: int | socket.socket) -> None:
    """Wait until a write may succeed, in the same way."""
    try:
        await trio.lowlevel.wait_writable(file)
    except OSError:
        await trio.sleep(LOOK_SECONDS)
