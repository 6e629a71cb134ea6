"""The public API for type checkers. Never run: mypy reads it, and fails if a type is not as stated here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import assert_type

import trio

import spindle_trio as spindle
from spindle_trio import (
    JsonValue,
    LifecycleEvent,
    MessageReceiveChannel,
    ProcessHandle,
    ProcessInfo,
    ProcessMessage,
    ProcessState,
    Worker,
)
from spindle_trio.child import BlockingProcessContext, CallContext, ProcessContext, StopNotice
from spindle_trio.testing import MemoryLauncher


async def a_host_program(channel: trio.abc.Channel[object]) -> None:
    assert_type(spindle.open_host(), AbstractAsyncContextManager[spindle.Host])
    spindle.open_host(spindle.DefaultLauncher(containment="killpg"), require_containment="killpg")
    async with spindle.open_host() as host, host.open_worker("indexer", root="extensions", user_id="ada") as worker:
        assert_type(host, spindle.Host)
        assert_type(worker, Worker)
        handle = await worker.backend_processes.spawn("dist/indexer.py", payload={"chat": 42}, metadata={"a": 1})
        assert_type(handle, ProcessHandle)
        assert_type(await worker.backend_processes.spawn(Path("dist") / "indexer.py"), ProcessHandle)
        assert_type(handle.info, ProcessInfo)
        assert_type(handle.state, ProcessState)
        assert_type(handle.result, JsonValue)
        assert_type(handle.pid, int | None)
        async for payload in handle.messages():
            assert_type(payload, JsonValue)
        assert_type(handle.messages(), MessageReceiveChannel[JsonValue])
        assert_type(await handle.messages().receive_many(), list[JsonValue])
        assert_type(await worker.backend_processes.messages().receive_many(100), list[ProcessMessage])
        assert_type(await handle.wait_ended(), ProcessInfo)
        assert_type(await handle.refresh(), ProcessInfo | None)
        assert_type(await worker.backend_processes.list(state=ProcessState.RUNNING), list[ProcessInfo])
        async for message in worker.backend_processes.messages():
            assert_type(message, ProcessMessage)
        async for event in worker.backend_processes.lifecycle_events():
            assert_type(event, LifecycleEvent)
            assert_type(event.result, JsonValue)
        assert_type(worker.backend_processes.on_lifecycle(print), Callable[[], None])
        assert_type(host.statistics(), spindle.HostStatistics)
        assert_type(host.recent(), list[spindle.EndedProcess])
        async with worker.backend_processes.open("dist/indexer.py", key="a", grace_period=1.5) as opened:
            assert_type(opened, ProcessHandle)
        await worker.backend_processes.spawn("dist/indexer.py", keyy="a")  # type: ignore[call-arg]  # no such option
        await worker.backend_processes.spawn("dist/indexer.py", key=1)  # type: ignore[arg-type]  # no text
        await handle.kill()
        command = spindle.Command([Path("bin") / "server", "-v"], ready=spindle.Line("up"), lane="jsonrpc")
        assert_type(await worker.backend_processes.spawn(command), ProcessHandle)
        spindle.Command(["server"], lane="json")  # type: ignore[arg-type]  # no such lane
        spindle.Command([3])  # type: ignore[list-item]  # no text
        assert_type(handle.info.status, str | None)
        spindle.open_host(commands={"server"})
        spindle.open_host(commands=lambda command: command.argv[0] == "server")


async def an_entry(process: ProcessContext) -> int:
    assert_type(process.payload, JsonValue)
    assert_type(process.has_payload, bool)
    assert_type(process.heartbeat_timeout, float)
    process.ready()
    async for payload in process.messages():
        assert_type(payload, JsonValue)
        await process.send({"echo": payload})
    assert_type(await process.messages().receive_many(), list[JsonValue])
    assert_type(await process.wait_stop(), StopNotice)
    assert_type(process.on_stop(print), Callable[[], None])

    @process.on_call
    async def square(payload: dict[str, int]) -> int:
        assert_type(process.call, CallContext)
        process.call.check()
        return payload["n"] ** 2

    @process.on_call("numbers")
    async def count(payload: JsonValue) -> AsyncIterator[int]:
        yield 1

    assert_type(await square({"n": 3}), int)
    assert_type(count(None), AsyncIterator[int])
    process.on_call("length", len)
    process.on_call("three", 3)  # type: ignore[call-overload]  # no function
    process.on_call(two_arguments)  # type: ignore[type-var]  # a handler takes the payload
    process.limit_calls(4)
    return 1


def two_arguments(first: int, second: int) -> int:
    return first + second


def a_blocking_entry(process: BlockingProcessContext) -> None:
    process.ready()
    assert_type(process.receive(timeout=1), JsonValue)
    assert_type(process.stop_requested, bool)
    process.sleep(0.1)


MemoryLauncher({"entry": an_entry})
MemoryLauncher({"entry": {"length": len, "two": two_arguments}})  # type: ignore[dict-item]  # takes two
MemoryLauncher({"entry": {"length": len}})
MemoryLauncher({"entry": a_blocking_entry})  # type: ignore[dict-item]  # only `async` entries run in memory
