"""An entry of four tools, of which three are dangerous: one hangs, one crashes, one takes all the memory it can get.

It has no `run`: it is ready when it has loaded, and answers calls. `surviving_pool.py` calls it.
"""

from __future__ import annotations

import os
import resource

MOST_MEMORY = 512 << 20
"""In bytes. Who asks for more gets `MemoryError`; without that bound, the kernel would kill somebody."""

resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def square(number: int) -> int:
    return number * number


def hang(_: object) -> None:
    while True:
        pass


def crash(_: object) -> None:
    os.abort()


def grow(_: object) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(16 << 20))


calls = {"square": square, "hang": hang, "crash": crash, "grow": grow}
