"""A spare's rehearsal, while no launch waits for it: the life of a process, with itself as the host.

After a fork the first write to each page copies it, which is most of the cost of a spawn. So a spare touches in advance
what an `async` entry will touch: it loads an entry file, and runs it from the first frame to the last. Nothing of that
is visible outside.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from spindle_trio._protocol._json_text import read_json
from spindle_trio._protocol._socket_lane import SocketLane
from spindle_trio.child._async_runtime import run_async_child
from spindle_trio.child._entry import load_entry
from spindle_trio.child._facts import facts_from_init

if TYPE_CHECKING:
    from spindle_trio.child._async_runtime import EntryFunction

_ENTRY = os.path.join(os.path.dirname(os.path.realpath(__file__)), "rehearsal_entry.py")
_INIT = (
    '{"type":"init","protocol":1,"processId":"rehearsal","entry":"rehearsal","kind":"rehearsal","heartbeatTimeoutMs":0,'
    '"limits":{"frameBytes":4096,"depth":8,"values":64,"textBytes":null,"containerEntries":null},"payload":{"n":[1]}}'
)


async def rehearse() -> None:
    """Run the rehearsal's entry, with Trio running."""
    function: EntryFunction = load_entry(_ENTRY)  # type: ignore[assignment]  # it is the one beside this file
    del sys.modules["rehearsal_entry"]
    lanes = [SocketLane(sock, max_bytes=None) for _ in range(2) for sock in socket.socketpair()]
    _, control, _, messages = lanes
    await run_async_child(function, facts_from_init(read_json(_INIT)), control, messages, beat=_ignore, report=_ignore)
    for lane in lanes:
        lane.close()


def _ignore(_: str = "") -> None:
    """Drop a heartbeat or a report: there is no host."""
