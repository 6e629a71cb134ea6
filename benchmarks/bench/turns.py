"""One of two processes that are measured in turns: it waits for its turn before each sample.

It writes a byte to stdout when it is ready, and waits for one on stdin. `bench.comparing` is the other side.
"""

from __future__ import annotations

import os

import trio

WAITING = b"w"
"""A process writes this when it waits for its turn."""
GO = b"g"
"""The process reads this when its turn has come."""

_is_paired = False


def begin() -> None:
    """Take turns from now on, and wait for the first one."""
    global _is_paired  # noqa: PLW0603  # one process measures one thing
    _is_paired = True
    os.write(1, WAITING)
    _expect_go(os.read(0, 1))


def are_taken() -> bool:
    """Whether this process is one of two."""
    return _is_paired


async def wait() -> None:
    """Wait for the next turn; returns at once in a process that is measured by itself."""
    if not _is_paired:
        return
    os.write(1, WAITING)
    await trio.lowlevel.wait_readable(0)
    _expect_go(os.read(0, 1))


def _expect_go(said: bytes) -> None:
    if said != GO:
        raise SystemExit("the program that compares has ended")
