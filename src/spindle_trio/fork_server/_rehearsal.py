"""A spare's rehearsal, while no launch waits for it: the life of a process, with itself as the host.

After a fork the first write to each page copies it, which is most of the cost of a spawn. So a spare touches in advance
what an `async` entry will touch: it loads an entry file, and runs it from the first frame to the last. Nothing of that
is visible outside.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, cast

from spindle_trio._protocol._socket_lane import SocketLane
from spindle_trio.child._async_runtime import run_async_child
from spindle_trio.fork_server._blocking_rehearsal import ignore, rehearse_loading

if TYPE_CHECKING:
    from spindle_trio.child._async_runtime import EntryFunction

_ENTRY = os.path.join(os.path.dirname(os.path.realpath(__file__)), "rehearsal_entry.py")


async def rehearse() -> None:
    """Run the rehearsal's entry, with Trio running."""
    function, facts = rehearse_loading(_ENTRY)
    lanes = [SocketLane(sock, max_bytes=None) for _ in range(2) for sock in socket.socketpair()]
    _, control, _, messages = lanes
    entry = cast("EntryFunction", function)
    await run_async_child(entry, facts, control, messages, beat=ignore, report=ignore)
    for lane in lanes:
        lane.close()
