"""A host program: a reader that is slower than the generator in the process, which does not run away from it.

    python notes/examples/slow_reader.py

The process may make eight rows more than the reader has taken. Then its generator waits, while the process goes on to
answer calls: the reader asks it how far the generator has come.
"""

from __future__ import annotations

from pathlib import Path

import trio

import spindle_trio as spindle

HERE = Path(__file__).parent
WINDOW = 8


async def main() -> None:
    async with (
        spindle.open_host() as host,
        host.open_worker("examples", root=HERE, user_id="ada") as worker,
        worker.backend_processes.open("endless_rows.py") as process,
        process.stream("rows", window=WINDOW) as rows,
    ):
        read = 0
        async for _ in rows:
            read += 1
            if read % 10 == 0:
                await trio.sleep(0.1)  # whatever takes a reader so long
                made = await process.call("made", timeout=5)
                print(f"read {read}, made {made}")
            if read == 50:
                break
    print("the process is gone, and so is its generator")


if __name__ == "__main__":
    trio.run(main)
