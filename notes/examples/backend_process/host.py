"""A backend in a process of its own: this program runs the host, and starts the backend, which works through it.

    python notes/examples/backend_process/host.py

Between the two is a socket pair. The backend (backend.py) has an entry in Python and one in JavaScript run for it, so
that Node has to be installed. They are the host's processes: kill the backend with SIGKILL, and the host ends them.

A number behind the command says after how many seconds without a heartbeat a process counts as hung, instead of 2.
"""

from __future__ import annotations

import signal
import socket
import sys
from functools import partial
from pathlib import Path

import trio

import spindle_trio as spindle

HERE = Path(__file__).parent


async def main(patience: str) -> None:
    near, far = socket.socketpair()
    channel = spindle.StreamChannel(trio.SocketStream(trio.socket.from_stdlib_socket(near)))
    async with spindle.open_host(grace_period=2) as host, trio.open_nursery() as nursery:
        with far:
            command = [sys.executable, str(HERE / "backend.py"), str(far.fileno()), patience]
            backend: trio.Process = await nursery.start(
                partial(trio.run_process, command, pass_fds=[far.fileno()], check=False)
            )
        print(f"host: the backend is process {backend.pid}", flush=True)
        # Until the backend closes the connection, be it by its end.
        await host.serve_worker(channel, "reader", root=HERE / "entries", user_id="ada")
        status = await backend.wait()
        ended = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
        print(f"host: the backend {ended}, and {host.statistics().processes} of its processes are left")


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "2")
