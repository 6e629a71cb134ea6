"""A small MCP server, which is a program like any other: it reads requests from stdin and answers on stdout.

It knows nothing of its supervisor, and needs no package. `mcp_server.py` keeps it up and calls its tools: `add`,
`wait`, which can be cancelled, and `crash`.
"""

from __future__ import annotations

import json
import os
import sys
import threading

TOOLS = [
    {
        "name": "add",
        "description": "Add two numbers.",
        "inputSchema": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
    {"name": "wait", "description": "Wait until it is cancelled.", "inputSchema": {"type": "object"}},
    {"name": "crash", "description": "End the server without an answer.", "inputSchema": {"type": "object"}},
]

output = threading.Lock()
waiting: dict[object, threading.Event] = {}


def say(**message: object) -> None:
    with output:
        print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def answer(request_id: object, text: object) -> None:
    say(id=request_id, result={"content": [{"type": "text", "text": str(text)}]})


def wait(request_id: object, cancelled: threading.Event) -> None:
    cancelled.wait()
    say(method="notifications/message", params={"level": "info", "data": f"request {request_id} was cancelled"})


def serve(message: dict[str, object]) -> None:
    request_id, params = message.get("id"), message.get("params")
    match message.get("method"), params:
        case "initialize", {"protocolVersion": version}:
            about = {"name": "tiny", "version": "1"}
            say(id=request_id, result={"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about})
        case "tools/list", _:
            say(id=request_id, result={"tools": TOOLS})
        case "tools/call", {"name": "add", "arguments": {"a": int(a), "b": int(b)}}:
            answer(request_id, a + b)
        case "tools/call", {"name": "wait"}:
            waiting[request_id] = threading.Event()
            threading.Thread(target=wait, args=(request_id, waiting[request_id]), daemon=True).start()
        case "tools/call", {"name": "crash"}:
            os._exit(3)
        case "notifications/cancelled", {"requestId": cancelled} if cancelled in waiting:
            waiting.pop(cancelled).set()
        case method, _ if request_id is not None:
            say(id=request_id, error={"code": -32602, "message": f"there is no such tool, or no such method: {method}"})


for line in sys.stdin:
    serve(json.loads(line))
