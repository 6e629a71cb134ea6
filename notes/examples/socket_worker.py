"""A worker over a socket: the host in one task, the worker in another, and only TCP between them.

    python notes/examples/socket_worker.py

In earnest the two ends are two programs. The worker's side has the same API as a worker inside the host's program, and
when its connection goes, its processes go with it.
"""

from __future__ import annotations

from pathlib import Path

import trio

import spindle_trio as spindle

HERE = Path(__file__).parent


async def main() -> None:
    async with spindle.open_host() as host, trio.open_nursery() as nursery:

        async def serve(stream: trio.SocketStream) -> None:
            await host.serve_worker(spindle.StreamChannel(stream), "remote", root=HERE, user_id="ada")

        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        await work(port)
        nursery.cancel_scope.cancel()


async def work(port: int) -> None:
    """Do what the worker's program would do."""
    stream = await trio.open_tcp_stream("localhost", port)
    async with spindle.connect_worker(spindle.StreamChannel(stream)) as worker:
        processes = worker.backend_processes
        handle = await processes.spawn("primes.py", key="demo", payload={"below": 60_000})
        print(f"ready: {handle.info.entry}, key {handle.info.key!r}")
        async for payload in handle.messages():
            print("message:", payload)
        info = await handle.wait_ended()
        print(f"{info.state} with {handle.result}")


if __name__ == "__main__":
    trio.run(main)
