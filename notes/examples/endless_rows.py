"""An entry with a generator that never ends: it makes rows as fast as they are taken. `slow_reader.py` reads them.

spindle-trio call notes/examples/endless_rows.py rows | head
"""

from __future__ import annotations

from collections.abc import AsyncIterator

counts = {"made": 0}


async def rows(_: object) -> AsyncIterator[dict[str, int]]:
    while True:
        counts["made"] += 1
        yield {"row": counts["made"]}


def made(_: object) -> int:
    return counts["made"]


calls = {"rows": rows, "made": made}
