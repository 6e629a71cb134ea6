"""Rehearsals: the life of a process, played through beforehand against itself as the host.

The first run of any code is the slowest: the interpreter specialises it as it goes, and in a fork each page that is
written to for the first time has to be copied. So the server plays a blocking entry through before it forks, for all of
its processes; and a spare, while nobody waits for it, an `async` one. Nothing of that is seen outside.
"""

from __future__ import annotations

import _socket
import os
import sys

from spindle_trio._json_text import read_json
from spindle_trio.child._blocking_runtime import BlockingRuntime
from spindle_trio.child._entry import load_entry
from spindle_trio.child._facts import facts_from_init
from spindle_trio.child._page import make_page, map_page
from spindle_trio.child._plain_lane import PlainLane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio.child._async_runtime import EntryFunction

RUNS = 10
"""How often the server plays a blocking entry through: Python 3.11 specialises code that has run eight times."""

_FOLDER = os.path.dirname(__file__)
_INIT = (
    '{"type":"init","protocol":1,"processId":"rehearsal","entry":"rehearsal","kind":"rehearsal","heartbeatTimeoutMs":1000,'
    '"limits":{"frameBytes":4096,"depth":8,"values":64,"textBytes":null,"containerEntries":null},"payload":{"n":[1]}}'
)


def rehearse_blocking() -> None:
    """Play a blocking entry through, as often as it takes to make its code fast."""
    for _ in range(RUNS):
        function = load_entry(os.path.join(_FOLDER, "rehearsal_blocking.py"))
        del sys.modules["rehearsal_blocking"]
        (host_control, control), (host_messages, messages) = _plain_pair(), _plain_pair()
        host_messages.push(b'{"say":"back"}')
        facts, words = facts_from_init(read_json(_INIT)), map_page(make_page())
        BlockingRuntime(facts, control, messages, words, _ignore).run(function)
        for lane in (control, messages, host_control, host_messages):
            os.close(lane.fd)


def rehearse_async() -> None:
    """Play an `async` entry through, once."""
    import trio

    function: EntryFunction = load_entry(os.path.join(_FOLDER, "rehearsal_async.py"))  # type: ignore[assignment]
    del sys.modules["rehearsal_async"]
    trio.run(_perform, function)


async def _perform(function: EntryFunction) -> None:
    import socket

    from spindle_trio._socket_lane import SocketLane
    from spindle_trio.child._async_runtime import run_async_child

    lanes = [SocketLane(sock, max_bytes=None) for _ in range(2) for sock in socket.socketpair()]
    host_control, control, host_messages, messages = lanes
    host_messages.send_nowait(b'{"say":"back"}')
    await run_async_child(function, facts_from_init(read_json(_INIT)), control, messages, beat=_ignore, report=_ignore)
    for body in host_control.receive_nowait(8) + host_messages.receive_nowait(8):
        read_json(body)
    for lane in lanes:
        lane.close()


def _plain_pair() -> tuple[PlainLane, PlainLane]:
    here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return PlainLane(here.detach()), PlainLane(there.detach())


def _ignore(_: str = "") -> None:
    """Take a heartbeat, or a report: nobody is there to hear either."""
