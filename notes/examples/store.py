"""An entry like a database: it answers over a socket, and its rows outlive it. `store_and_users.py` keeps it up.

Its payload is a folder for the rows and the socket.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import trio

from spindle_trio.child import ProcessContext


async def run(process: ProcessContext) -> None:
    assert isinstance(process.payload, str)
    folder = Path(process.payload)
    rows = folder / "rows.jsonl"
    values: dict[str, str] = dict(json.loads(line) for line in rows.read_text().splitlines()) if rows.exists() else {}

    @process.on_call
    async def crash(_: object) -> None:
        os.abort()

    (folder / "socket").unlink(missing_ok=True)  # of a store before this one
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET) as listener:
        await listener.bind(str(folder / "socket"))
        listener.listen()
        process.ready()  # not before: whoever is started next connects at once
        process.beat_while_running()
        with rows.open("a") as file:
            async with trio.open_nursery() as nursery:
                while True:
                    connection, _ = await listener.accept()
                    nursery.start_soon(serve, connection, values, partial(print, file=file, flush=True))


async def serve(connection: trio.socket.SocketType, values: dict[str, str], note: partial[None]) -> None:
    """Answer one user: to a name with its value, to a name and a value with that value, once it is written down."""
    with connection:
        while request := await connection.recv(65536):
            row = json.loads(request)
            if len(row) == 2:
                values.update([row])
                note(json.dumps(row))
            await connection.send(json.dumps(values.get(row[0])).encode())
