"""A host program: a pool of two processes answers, whatever some of the calls do to them.

    python notes/examples/surviving_pool.py

One call in ten hangs, crashes its process, or asks for all the memory there is. Each of these gets an error that says
what happened, and costs one process at most; all others are answered.
"""

from __future__ import annotations

import collections
from pathlib import Path

import trio

import spindle_trio as spindle

HERE = Path(__file__).parent

METHODS = ["square"] * 9 + ["hang"] + ["square"] * 9 + ["crash"] + ["square"] * 9 + ["grow"]


async def main() -> None:
    async with (
        spindle.open_host(cancel_grace=0.2) as host,
        host.open_worker("examples", root=HERE, user_id="ada") as worker,
        spindle.open_pool(worker, "risky_tools.py", size=2, max_calls=50) as pool,
    ):
        ends: collections.Counter[str] = collections.Counter()
        async with trio.open_nursery() as nursery:
            for number, method in enumerate(METHODS * 3):
                nursery.start_soon(call, pool, method, number, ends)
        for end, count in sorted(ends.items()):
            print(f"{count:>3}  {end}")
        print(f"{pool.statistics().failures} processes have crashed")


async def call(pool: spindle.Pool, method: str, number: int, ends: collections.Counter[str]) -> None:
    timeout = 0.5 if method == "hang" else 30.0
    try:
        answer = await pool.call(method, number, timeout=timeout)
    except spindle.CallTimeoutError:
        ends[f"{method}: not answered in time"] += 1
    except spindle.CallFailedError as error:
        ends[f"{method}: {error.error_type}"] += 1
    except spindle.ProcessLostError as error:
        ends[f"{method}: lost: {error.info.error}"] += 1
    else:
        assert answer == number * number
        ends[f"{method}: answered"] += 1


if __name__ == "__main__":
    trio.run(main)
