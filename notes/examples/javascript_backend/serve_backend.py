"""A backend in JavaScript, written for the API's `spindle` global: this program runs the host, and starts the backend.

    python notes/examples/javascript_backend/serve_backend.py

Node has to be installed. Between the two is a socket pair. `connect.mjs` makes the global, and the backend knows
nothing of where its host is. When the backend ends, its processes end.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path

import trio

import spindle_trio as spindle
from spindle_trio.javascript import WORKER

HERE = Path(__file__).parent


async def main() -> None:
    near, far = socket.socketpair()
    channel = spindle.StreamChannel(trio.SocketStream(trio.socket.from_stdlib_socket(near)))
    async with spindle.open_host(cancel_grace=0.2) as host, trio.open_nursery() as nursery:
        with far:
            command = ["node", "--import", str(HERE / "connect.mjs"), str(HERE / "backend.mjs")]
            environment = {**os.environ, "SPINDLE_WORKER": str(WORKER), "SPINDLE_SOCKET": str(far.fileno())}
            backend: trio.Process = await nursery.start(
                partial(trio.run_process, command, env=environment, pass_fds=[far.fileno()])
            )
        # Until the backend closes the connection, be it by its end.
        await host.serve_worker(channel, "reader", root=HERE / "entries", user_id="ada")
        await backend.wait()
        print(f"host: {host.statistics().processes} of its processes are left")


if __name__ == "__main__":
    trio.run(main)
