"""The entry that `check_launcher` launches: it does what its payload says.

For a launcher of another kind of entry, write an entry that does the same. The payload is an object; its ``do``
is one of:

* ``"echo"``: say ready, and send each message back; a stop ends it.
* ``"beat"``: say ready, and for each message beat and then send it back.
* ``"flood"``: say ready, send ``[number, "x" * size]`` for the numbers from 0 to ``count`` - 1, and return ``count``.
* ``"hold"``: say ready, and do nothing until a stop; read no message; then complete with the stop's reason.
* ``"exit"``: exit with ``code`` at once, without a word.
* ``"block"``: say ready, and never yield to anything again. (Only asked of processes that have a pid.)
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spindle_trio.child import ProcessContext

__all__ = ["run"]


async def run(process: ProcessContext) -> object:
    """Do what the payload says."""
    order = process.payload
    assert isinstance(order, dict), "check_launcher gives an object as payload"
    do = order["do"]
    if do == "exit":
        raise SystemExit(order["code"])
    process.ready()
    if do in {"echo", "beat"}:
        async for payload in process.messages():
            if do == "beat":
                process.heartbeat()
            await process.send(payload)
    elif do == "flood":
        count, size = order["count"], order["size"]
        assert isinstance(count, int)
        assert isinstance(size, int)
        for number in range(count):
            await process.send([number, "x" * size])
        return count
    elif do == "hold":
        return (await process.wait_stop()).reason
    elif do == "block":
        threading.Event().wait()
    return None
