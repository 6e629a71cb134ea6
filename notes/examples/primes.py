"""A blocking entry: count the primes below a bound, on one core and without an event loop.

    spindle-trio run notes/examples/primes.py --payload '{"below": 200000}'

A `def` is called on the child's main thread and may use it as it likes, as long as it beats. A stop reaches it at its
next call on the context.
"""

from __future__ import annotations

from math import isqrt

from spindle_trio import JsonValue
from spindle_trio.child import BlockingProcessContext

BLOCK = 20_000
"""Numbers looked at between two heartbeats: some milliseconds of work."""


def run(process: BlockingProcessContext) -> JsonValue:
    below = process.payload.get("below") if isinstance(process.payload, dict) else None
    if not isinstance(below, int) or below < 2:
        raise ValueError("""primes wants a payload such as {"below": 200000}""")
    process.ready()
    primes = 0
    for start in range(0, below, BLOCK):
        end = min(start + BLOCK, below)
        primes += sum(is_prime(number) for number in range(start, end))
        process.heartbeat()
        process.send({"looked_at": end, "primes": primes})
    return primes


def is_prime(number: int) -> bool:
    if number < 4:
        return number > 1
    if number % 2 == 0:
        return False
    return all(number % divisor for divisor in range(3, isqrt(number) + 1, 2))
