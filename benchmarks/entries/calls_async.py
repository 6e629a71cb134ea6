"""The same as ``calls_blocking.py``, under Trio."""

from __future__ import annotations

from collections.abc import AsyncIterator

TEXT = "x" * 98


async def echo(value: str) -> str:
    return value


async def items(count: int) -> AsyncIterator[str]:
    for _ in range(count):
        yield TEXT


calls = {"echo": echo, "items": items}
