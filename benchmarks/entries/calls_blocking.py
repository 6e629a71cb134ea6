"""Answers calls, one at a time, and yields items of 100 bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import thread_time

TEXT = "x" * 98


def echo(value: str) -> str:
    return value


def work(seconds: float) -> None:
    end = thread_time() + seconds
    while thread_time() < end:
        pass


def hang(_: object) -> None:
    while True:
        pass


def pin(core: int) -> None:
    os.sched_setaffinity(0, {core})


def items(count: int) -> Iterator[str]:
    for _ in range(count):
        yield TEXT


calls = {"echo": echo, "work": work, "hang": hang, "pin": pin, "items": items}
