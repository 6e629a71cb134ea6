"""Runs tool calls of a model: a shell command, a snippet of Python or of Node, each in a process of its own.

A tool has 256 MiB of memory, 64 processes, one processor and 3 seconds. It can read programs and libraries, and write
to one folder, the workspace. It has no network. Whatever it does, the answer comes in time, and nothing is left of it.

Run it: python notes/examples/tool_runner.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import cast

import attrs
import trio

import spindle_trio as spindle
from spindle_trio import Command, ResourceLimits, Sandbox

LIMITS = ResourceLimits(memory=256 << 20, pids=64, cpus=1, run_seconds=3)
SANDBOX = Sandbox(read=("@runtime",), write=("@root", "@tmp"), network="none")
PROGRAMS = {"shell": ["sh", "-c"], "python": [sys.executable, "-I", "-c"], "node": ["node", "-e"]}
MOST_OUTPUT = 2000
"""Bytes of output that an answer has: a tool that writes more is stopped."""


@attrs.frozen
class Answer:
    """What became of a tool call."""

    ok: bool
    output: str
    error: str | None


async def run_tool(worker: spindle.Worker, kind: str, code: str) -> Answer:
    """Run a tool to its end, and return what it has written, and what went wrong."""
    command = Command([*PROGRAMS[kind], code], lane="bytes")
    output = bytearray()
    async with worker.backend_processes.open(
        command, kind=kind, heartbeat_timeout=60, grace_period=0, resource_limits=LIMITS, sandbox=SANDBOX
    ) as tool:
        await tool.send(None)  # no input
        async for chunk in tool.messages():
            for data in cast("dict[str, bytes]", chunk).values():  # {"stdout": …} or {"stderr": …}
                output += data
            if len(output) > MOST_OUTPUT:
                break
        if len(output) <= MOST_OUTPUT:
            await tool.wait_ended()
    ended = tool.info
    error = "it wrote too much" if len(output) > MOST_OUTPUT else ended.error
    return Answer(ended.state == "completed", output[:MOST_OUTPUT].decode(errors="replace"), error)


CALLS = [
    ("shell", "echo result > table.csv; wc -c < table.csv"),
    ("python", "print(sum(range(10)))"),
    ("node", "console.log([1, 2, 3].map((n) => n * n).join())"),
    ("shell", "cat /etc/shadow"),
    ("python", "import socket; socket.create_connection(('127.0.0.1', 80))"),
    ("python", "held = bytearray(10**9)"),
    ("shell", "while :; do :; done"),
    ("shell", "yes"),
]


async def main() -> None:
    """Answer a request a line: what a model asked for, and what became of it."""
    with tempfile.TemporaryDirectory() as workspace:
        root = Path(workspace).resolve()
        async with spindle.open_host() as host, host.open_worker("tools", root=root, user_id="model") as worker:
            for kind, code in CALLS:
                print("→", json.dumps({"tool": kind, "code": code}))
                answer = await run_tool(worker, kind, code)
                print("←", json.dumps(attrs.asdict(answer)))


if __name__ == "__main__":
    trio.run(main)
