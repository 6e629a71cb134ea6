"""A host program: it keeps an MCP server up, and is its client.

    python notes/examples/mcp_server.py
    python notes/examples/mcp_server.py mcp-server-time     # or another one, whose tools are only listed

Each process of the server has shaken hands before it gets a call. A call that takes too long is cancelled in the
server. When the server crashes, the calls that it had are lost, and the next ones wait for its successor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

import spindle_trio as spindle

HERE = Path(__file__).parent
TINY = [sys.executable, str(HERE / "tiny_mcp_server.py")]


async def main(argv: list[str]) -> None:
    command = spindle.Command(argv or TINY, lane="jsonrpc")
    policy = spindle.RestartPolicy(delay=0.1)
    async with (
        spindle.open_host() as host,
        host.open_worker("examples", root=HERE, user_id="ada") as worker,
        spindle.open_service(worker, command, key="tools", restart=policy, on_start=shake_hands) as server,
    ):
        print("tools:", *names_of(await server.call("tools/list", timeout=10)))
        if argv:
            return
        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(add, server, number, number)
        async with server.messages() as messages:
            try:
                await use(server, "wait", timeout=0.2)
            except spindle.CallTimeoutError:
                print("wait: not answered in time")
            said = await messages.receive()
            print("the server says:", said.payload)
        try:
            await use(server, "no such tool")
        except spindle.CallFailedError as error:
            print(f"no such tool: error {error.code}: {error.text}")
        try:
            await use(server, "crash")
        except spindle.ProcessLostError as error:
            print("crash:", error.info.error)
        await add(server, 20, 22)


async def shake_hands(process: spindle.ProcessHandle) -> None:
    """Do what MCP wants from a client before anything else."""
    client: dict[str, spindle.JsonValue] = {"name": "example", "version": "1"}
    params: spindle.JsonValue = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
    match await process.call("initialize", params, timeout=10):
        case {"serverInfo": {"name": str(name)}}:
            print(f"{name} is up")
    await process.send({"method": "notifications/initialized"})


async def add(server: spindle.Service, a: int, b: int) -> None:
    print(a, "+", b, "=", await use(server, "add", a=a, b=b))


async def use(server: spindle.Service, tool: str, *, timeout: float = 10, **arguments: spindle.JsonValue) -> str:
    """Call a tool, and return the text that it answers with."""
    result = await server.call("tools/call", {"name": tool, "arguments": arguments}, timeout=timeout)
    match result:
        case {"content": [{"text": str(text)}]}:
            return text
    return str(result)


def names_of(listed: spindle.JsonValue) -> list[str]:
    match listed:
        case {"tools": list(tools)}:
            return [str(tool["name"]) for tool in tools if isinstance(tool, dict)]
    return []


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
