"""Writes rubbish into the page of its heartbeats, and into the host's word there, and then beats no more."""

from __future__ import annotations

import math
from time import monotonic

from spindle_trio.child import BlockingProcessContext


def run(process: BlockingProcessContext) -> None:
    process.ready()
    words = process._words
    for number in range(len(words)):
        for value in (math.nan, math.inf, -math.inf, -1.0, 5e-324, 1.7e308):
            words[number] = value
    words[0] = monotonic() + 1_000_000
    while True:
        pass
