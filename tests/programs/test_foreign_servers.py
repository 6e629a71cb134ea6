"""Servers that nobody here wrote, with the handshake of their protocols: a language server and two MCP servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from spindle_trio import CallFailedError, CallTimeoutError, Command, JsonValue, ProcessHandle, ProcessState
from support.fork_server import fork_host
from support.programs import needed

SOURCE = "import os\n\n\ndef area(width, height):\n    return width * height\n\n\nprint(area(2, 3)\n"


@pytest.mark.slow
async def test_a_language_server_says_what_is_wrong_with_a_file_and_shuts_down(tmp_path: Path) -> None:
    command = Command([needed("pylsp")], lane="jsonrpc-headers")
    uri = (tmp_path / "area.py").as_uri()
    async with fork_host(tmp_path) as forked:
        server = await forked.worker.backend_processes.spawn(command)
        async with server.messages() as messages:
            root = {"processId": None, "rootUri": tmp_path.as_uri(), "capabilities": {}}
            hello = await server.call("initialize", root, timeout=20)
            assert hello["serverInfo"]["name"] == "pylsp"
            assert hello["capabilities"]["hoverProvider"] is True
            await server.send({"method": "initialized", "params": {}})
            document = {"uri": uri, "languageId": "python", "version": 1, "text": SOURCE}
            await server.send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
            # The file is there when this comes: a message is never overtaken by a call.
            symbols = await server.call("textDocument/documentSymbol", {"textDocument": {"uri": uri}}, timeout=20)
            assert "area" in [symbol["name"] for symbol in symbols]
            with trio.fail_after(20):
                while (said := await messages.receive())["method"] != "textDocument/publishDiagnostics":
                    assert "id" not in said, said
            problems = [problem["message"] for problem in said["params"]["diagnostics"]]
            assert any("'(' was never closed" in problem or "SyntaxError" in problem for problem in problems), problems
            with pytest.raises(CallFailedError, match="-32601") as caught:
                await server.call("no/such/method", {}, timeout=20)
            assert caught.value.code == -32601
            assert await server.call("shutdown", timeout=20) is None
            await server.send({"method": "exit"})
            with trio.fail_after(20):
                assert (await server.wait_ended()).state is ProcessState.COMPLETED


async def shake_hands(server: ProcessHandle, name: str, **capabilities: JsonValue) -> None:
    client = {"name": "tests", "version": "1"}
    offer = {"protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": client}
    hello = cast("Any", await server.call("initialize", offer, timeout=20))
    assert name in hello["serverInfo"]["name"]
    await server.send({"method": "notifications/initialized"})


async def test_an_mcp_server_in_python_lists_its_tools_and_runs_one(tmp_path: Path) -> None:
    command = Command([needed("mcp-server-time"), "--local-timezone", "UTC"], lane="jsonrpc")
    async with fork_host(tmp_path) as forked:
        server = await forked.worker.backend_processes.spawn(command)
        await shake_hands(server, "mcp-time")
        listed = await server.call("tools/list", timeout=20)
        assert "get_current_time" in [tool["name"] for tool in listed["tools"]]
        asked = {"name": "get_current_time", "arguments": {"timezone": "Europe/Berlin"}}
        answer = await server.call("tools/call", asked, timeout=20)
        assert json.loads(answer["content"][0]["text"])["timezone"] == "Europe/Berlin"
        with pytest.raises(CallFailedError) as caught:
            await server.call("no/such/method", {}, timeout=20)
        assert caught.value.code in {-32601, -32602}
        with trio.fail_after(20):
            await server.stop()
        assert server.state is ProcessState.STOPPED


@pytest.mark.slow
async def test_an_mcp_server_in_javascript_asks_its_client_and_gives_up_when_told(tmp_path: Path) -> None:
    command = Command([needed("mcp-server-everything"), "stdio"], lane="jsonrpc")
    async with fork_host(tmp_path) as forked, trio.open_nursery() as nursery:
        server = await forked.worker.backend_processes.spawn(command)
        messages = server.messages()
        said: list[str] = []

        async def answer_requests() -> None:
            async for message in messages:
                assert isinstance(message, dict)
                said.append(str(message["method"]))
                if message["method"] == "roots/list":
                    await server.send({"id": message["id"], "result": {"roots": []}})
                elif message["method"] == "sampling/createMessage":
                    content = {"type": "text", "text": "a sample of the client"}
                    result = {"role": "assistant", "model": "none", "content": content}
                    await server.send({"id": message["id"], "result": result})

        nursery.start_soon(answer_requests)
        await shake_hands(server, "everything", roots={"listChanged": True}, sampling={})
        echo = {"name": "echo", "arguments": {"message": "ä\n"}}
        answer = cast("Any", await server.call("tools/call", echo, timeout=20))
        assert answer["content"][0]["text"] == "Echo: ä\n"
        # While the server serves this call, it asks its client, and uses the answer.
        sample = {"name": "trigger-sampling-request", "arguments": {"prompt": "say", "maxTokens": 5}}
        answer = cast("Any", await server.call("tools/call", sample, timeout=20))
        assert "a sample of the client" in json.dumps(answer)
        assert "sampling/createMessage" in said
        # Several calls at once; one is cancelled, and the others are answered.
        long = {"name": "trigger-long-running-operation", "arguments": {"duration": 60, "steps": 60}}
        with pytest.raises(CallTimeoutError):
            await server.call("tools/call", long, timeout=0.5)
        total = {"name": "get-sum", "arguments": {"a": 2, "b": 3}}
        answer = cast("Any", await server.call("tools/call", total, timeout=20))
        assert "5" in answer["content"][0]["text"]
        with trio.fail_after(20):
            await server.stop()
        nursery.cancel_scope.cancel()
