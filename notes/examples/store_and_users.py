"""A host program: a store and two services that need it, kept up as a group.

    python notes/examples/store_and_users.py

The writer and the reader are started once the store is ready. When the store crashes they are stopped, the reader
first; then the store is started again, and after it the writer and the reader. At the end all stop in reverse order.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio

import spindle_trio as spindle

HERE = Path(__file__).parent

POLICY = spindle.RestartPolicy(delay=0.1, give_up_after=3)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            spindle.open_host() as host,
            host.open_worker("examples", root=HERE, user_id="ada") as worker,
            spindle.open_group(worker, strategy="rest_for_one", restart=POLICY) as group,
        ):
            store = await start(group, "store", "store.py", folder)
            writer = await start(group, "writer", "store_user.py", folder)
            reader = await start(group, "reader", "store_user.py", folder)
            print("written:", await writer.call("ask", ["colour", "green"]))
            try:
                await store.call("crash")
            except spindle.ProcessLostError as error:
                print("the store is lost:", error.info.error)
            await store.wait_running()  # the reader of the store that has crashed is gone when there is another one
            print("read:", await reader.call("ask", ["colour"], timeout=10))


async def start(group: spindle.Group, name: str, entry: str, folder: str) -> spindle.Service:
    """Start a service, and print what happens to it afterwards."""
    service = await group.start(entry, name=name, key=name, payload=folder)
    print(f"{name} running")
    service.on_event(lambda event: print(name, event.kind))
    return service


if __name__ == "__main__":
    trio.run(main)
