"""A JavaScript process without a host: a test writes each frame itself, and reads each answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from spindle_trio.javascript import RUNTIME
from support.javascript import needs_bun, needs_node

GUARD_SECONDS: Final = 20
"""How long one read may take before it counts as hanging."""

LIMITS: Final = {"frameBytes": 2**24, "depth": 64, "values": 100_000, "textBytes": None, "containerEntries": None}


class Lane:
    """The host's end of a lane."""

    def __init__(self) -> None:
        self.mine, self.other = socket.socketpair()
        self.mine.settimeout(GUARD_SECONDS)

    def send(self, *bodies: bytes) -> None:
        """Write frames, all at once."""
        self.mine.sendall(b"".join(len(body).to_bytes(4, "big") + body for body in bodies))

    def receive(self) -> bytes:
        """Read a frame."""
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.mine.recv(size - len(data))
            if not more:
                raise EOFError("the process has closed this lane")
            data += more
        return data


class BareRuntime:
    """The three lanes of a process."""

    def __init__(self) -> None:
        self.control, self.messages, self.calls = Lane(), Lane(), Lane()

    def tell(self, **frame: object) -> None:
        """Write a frame on the control lane."""
        self.control.send(json.dumps(frame).encode())

    def heard(self) -> dict[str, Any]:
        """Read a frame of the control lane; heartbeats, which Bun sends there, do not count."""
        frame: dict[str, Any] = {"type": "heartbeat"}
        while frame["type"] == "heartbeat":
            frame = json.loads(self.control.receive())
        return frame

    def call(self, *frames: list[object]) -> None:
        """Write calls, all at once."""
        self.calls.send(*(b"\x01" + json.dumps(frame).encode() for frame in frames))

    def said(self) -> list[Any]:
        """Read a frame of the calls lane: its kind, and what it holds."""
        body = self.calls.receive()
        return [body[0], *json.loads(body[1:])]

    def says(self, count: int) -> list[list[Any]]:
        """Read so many frames of the calls lane."""
        return [self.said() for _ in range(count)]


both_programs = pytest.mark.parametrize(
    "program", [pytest.param("node", marks=needs_node), pytest.param("bun", marks=[needs_bun, pytest.mark.slow])]
)


@contextmanager
def bare_runtime(folder: Path, source: str, program: str = "node", **init: object) -> Iterator[BareRuntime]:
    """Run an entry by Node or Bun, and tell it its `init`."""
    entry = (folder / "entry.mjs").resolve()
    entry.write_text(textwrap.dedent(source), encoding="utf-8")
    runtime = BareRuntime()
    lanes = runtime.control, runtime.messages, runtime.calls
    page = os.memfd_create("page")
    os.write(page, bytes(16))
    control, messages, calls = (lane.other.fileno() for lane in lanes)
    command = [
        program,
        str(RUNTIME),
        "entry",
        str(os.getpid()),
        str(entry),
        *map(str, (control, messages, page, calls)),
    ]
    process = subprocess.Popen(command, cwd=folder, pass_fds=(control, messages, page, calls))
    try:
        for lane in lanes:
            lane.other.close()
        facts = {"protocol": 1, "offers": 2, "processId": "p1", "entry": entry.name, "kind": "k"}
        runtime.tell(**{"type": "init", **facts, "heartbeatTimeoutMs": 15000, "limits": LIMITS, **init})
        yield runtime
    finally:
        process.kill()
        process.wait()
        os.close(page)
        for lane in lanes:
            lane.mine.close()
