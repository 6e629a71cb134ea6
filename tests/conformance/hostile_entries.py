"""Recorded entries in Python that go around their context; `translations.py` says in which scenarios."""

from __future__ import annotations

import os
import threading

from spindle_trio.child import BlockingProcessContext


def closes_its_control_lane(process: BlockingProcessContext) -> None:
    process.ready()
    os.close(process._controls.lanes.control.fd)
    threading.Event().wait()


def sends_null(process: BlockingProcessContext) -> None:
    process.ready()
    process.sleep(0.05)
    os.write(process._controls.lanes.control.fd, b"\0\0\0\4null")
    process.sleep(0.25)
    process.send("still here")


def sends_nonsense(process: BlockingProcessContext) -> None:
    process.ready()
    body = b'{"type":"nonsense"}'
    os.write(process._controls.lanes.control.fd, len(body).to_bytes(4, "big") + body)
    process.sleep(0.3)
    process.send("still here")


def says_complete_and_stays(process: BlockingProcessContext) -> None:
    process.ready()
    process.sleep(0.05)
    body = b'{"type":"complete","messages":0}'
    os.write(process._controls.lanes.control.fd, len(body).to_bytes(4, "big") + body)
    threading.Event().wait()
