"""Throws descriptors at its host, over both of its lanes, in good frames and as many as go into one datagram."""

from __future__ import annotations

import os
import socket

from tricks import lane_of

from spindle_trio.child import BlockingProcessContext

MOST_AT_ONCE = 253  # SCM_MAX_FD
THROWS = 20


def run(process: BlockingProcessContext) -> str:
    process.ready()
    for name, body in (("control", b'{"type":"ready"}'), ("messages", b'"caught"')):
        with socket.socket(fileno=os.dup(lane_of(process, name))) as lane:
            lane.setblocking(True)
            for _ in range(THROWS):
                frame = len(body).to_bytes(4, "big") + body
                socket.send_fds(lane, [frame], [0] * MOST_AT_ONCE)
    return "fine"
