"""An entry that needs the store: it connects before it is ready, and holds that one connection.

It does not see to what happens when the store goes: its group stops it then, and starts it when there is another store.
"""

from __future__ import annotations

import json
from pathlib import Path

import trio

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    assert isinstance(process.payload, str)
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET) as store:
        await store.connect(str(Path(process.payload) / "socket"))  # fails without a store
        turn = trio.Lock()

        @process.on_call
        async def ask(row: object) -> object:
            async with turn:
                await store.send(json.dumps(row).encode())
                return json.loads(await store.recv(65536))

        process.ready()
        process.beat_while_running()
        await process.wait_stop()
