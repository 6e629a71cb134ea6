"""The worker protocol over real sockets, with real processes on the real clock."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import spindle_trio as spindle
from spindle_trio import ProcessState, StreamChannel, connect_worker
from support.numbers import number_inside
from support.stall import descendants_of

if not sys.platform.startswith("linux"):
    pytest.skip("the launchers need Linux", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("nothing_left")

GUARD_SECONDS = 30
"""How long one test may wait in all before it counts as hanging."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A worker's root with the entries of these tests."""
    entries = {
        "indexer.py": """
            async def run(process):
                process.ready()
                for number, document in enumerate(process.payload):
                    process.heartbeat()
                    await process.send({"done": number, "document": document})
                return len(process.payload)
        """,
        "echo.py": """
            import os

            def run(process):
                process.ready()
                process.send({"pid": os.getpid()})
                while True:
                    process.send({"echo": process.receive()})
        """,
        "flood.py": """
            def run(process):
                process.ready()
                for number in range(process.payload):
                    process.send([number, "x" * 100])
                return "all sent"
        """,
        "tool.py": """
            import os, time

            def square(payload):
                return payload["n"] ** 2

            def fail(payload):
                raise ValueError("no such number")

            def hang(payload):
                while True:
                    time.sleep(1)

            def count(upto):
                try:
                    for number in range(upto):
                        process.send(number)  # says how far the generator has come
                        yield number
                finally:
                    process.send("closed")

            def run(context):
                global process
                process = context
                for function in (square, fail, hang, count):
                    process.on_call(function)
                process.ready()
        """,
        "crash.py": """
            import os

            def run(process):
                process.ready()
                os.kill(os.getpid(), 11)
        """,
    }
    for name, source in entries.items():
        (tmp_path / name).write_text(textwrap.dedent(source))
    return tmp_path


@asynccontextmanager
async def served_and_connected(
    root: Path,
    limits: spindle.Limits = spindle.Limits(),  # noqa: B008  # it is frozen
) -> AsyncIterator[tuple[spindle.Host, spindle.Worker]]:
    """Serve a worker at one end of a socket pair, and play it at the other."""
    near, far = (StreamChannel(trio.SocketStream(end)) for end in trio.socket.socketpair())
    with trio.fail_after(GUARD_SECONDS):
        async with (
            spindle.open_host(spindle.PythonLauncher(), limits=limits) as host,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(functools.partial(host.serve_worker, near, "remote", root=root, user_id="ada"))
            async with connect_worker(far, limits=limits) as worker:
                yield host, worker


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_real_process_works_for_a_worker_over_a_socket(root: Path) -> None:
    async with served_and_connected(root) as (_, worker):
        handle = await worker.backend_processes.spawn("indexer.py", key="chat:42", payload=["a", "ü", "c" * 100_000])
        assert [payload async for payload in handle.messages()] == [
            {"done": 0, "document": "a"},
            {"done": 1, "document": "ü"},
            {"done": 2, "document": "c" * 100_000},
        ]
        info = await handle.wait_ended()
        assert info.state is ProcessState.COMPLETED
        assert handle.result == 3


@pytest.mark.slow
async def test_the_largest_payload_passes_both_ways(root: Path) -> None:
    async with served_and_connected(root) as (_, worker):
        handle = await worker.backend_processes.spawn("echo.py")
        messages = handle.messages()
        await messages.receive()
        largest = "ü" * ((16 * 1024 * 1024 - len('{"echo":""}')) // 2)
        await handle.send(largest)
        assert await messages.receive() == {"echo": largest}
        with pytest.raises(spindle.PayloadError):
            await handle.send("x" * (16 * 1024 * 1024))
        await handle.stop()
        assert handle.state is ProcessState.STOPPED


@pytest.mark.slow
@pytest.mark.parametrize("count", [4_000, pytest.param(20_000, marks=pytest.mark.slow)])
async def test_a_flood_arrives_whole_and_in_order(root: Path, count: int) -> None:
    async with served_and_connected(root, spindle.Limits(inbox_messages=count, inbox_bytes=2**24)) as (_, worker):
        handle = await worker.backend_processes.spawn("flood.py", payload=count)
        received = [message async for message in handle.messages()]
        assert [number for number, _ in received] == list(range(count))  # type: ignore[misc]  # they are pairs
        assert (await handle.wait_ended()).state is ProcessState.COMPLETED
        assert handle.result == "all sent"


async def test_a_crash_is_told_for_what_it_is_and_a_refused_entry_too(root: Path) -> None:
    async with served_and_connected(root) as (_, worker):
        handle = await worker.backend_processes.spawn("crash.py")
        info = await handle.wait_ended()
        assert info.state is ProcessState.FAILED
        assert "SIGSEGV" in str(info.error)
        with pytest.raises(spindle.EntryError):
            await worker.backend_processes.spawn("../crash.py")
        assert await worker.backend_processes.list() == []


@pytest.mark.slow
async def test_calls_and_streams_of_a_real_process_travel_over_a_socket(root: Path) -> None:
    async with served_and_connected(root) as (_, worker):
        handle = await worker.backend_processes.spawn("tool.py", heartbeat_timeout=math.inf)
        assert await handle.call("square", {"n": 3}) == 9
        with pytest.raises(spindle.CallFailedError) as failed:
            await handle.call("fail")
        assert (failed.value.error_type, failed.value.text) == ("ValueError", "no such number")
        assert "in fail" in str(failed.value.traceback)
        with pytest.raises(spindle.UnknownMethodError) as unknown:
            await handle.call("cube")
        assert set(unknown.value.known) == {"square", "fail", "hang", "count"}
        async with handle.stream("count", 1_000) as items:
            assert [item async for item in items] == list(range(1_000))
        messages = handle.messages()
        while await messages.receive() != "closed":
            pass
        # A reader that does not read holds up the generator: by its window, and by no more.
        async with handle.stream("count", 1_000, window=4) as items:
            assert [await messages.receive() for _ in range(4)] == [0, 1, 2, 3]
            assert await items.receive() == 0
            assert await items.receive() == 1
            assert [await messages.receive() for _ in range(2)] == [4, 5]
        assert await messages.receive() == "closed"
        # And a hung handler ends its process, in the time that was given.
        with pytest.raises(TimeoutError):
            await handle.call("hang", timeout=0.1, overrun="kill")
        with pytest.raises(spindle.ProcessLostError):
            await handle.call("square", {"n": 3})
        info = await handle.wait_ended()
        assert info.state is ProcessState.TIMED_OUT
        assert handle.post_mortem is not None
        assert "in hang" in str(handle.post_mortem.stacks)


async def test_leaving_the_connection_ends_the_real_process(root: Path) -> None:
    near, far = (StreamChannel(trio.SocketStream(end)) for end in trio.socket.socketpair())
    with trio.fail_after(GUARD_SECONDS):
        async with spindle.open_host(spindle.PythonLauncher()) as host, trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(host.serve_worker, near, "remote", root=root, user_id="ada"))
            async with connect_worker(far) as worker:
                handle = await worker.backend_processes.spawn("echo.py")
                said: Any = await handle.messages().receive()
                (pid,) = [pid for pid in descendants_of(os.getpid()) if number_inside(pid) == said["pid"]]
        # The nursery closed: serving has ended, and with it the process.
        assert not is_alive(pid)
        assert host.statistics().processes == 0


async def test_a_worker_over_tcp(root: Path) -> None:
    with trio.fail_after(GUARD_SECONDS):
        async with spindle.open_host(spindle.PythonLauncher()) as host, trio.open_nursery() as nursery:

            async def serve(stream: trio.SocketStream) -> None:
                await host.serve_worker(StreamChannel(stream), "remote", root=root, user_id="ada")

            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            stream = await trio.testing.open_stream_to_socket_listener(listener)
            async with (
                connect_worker(StreamChannel(stream)) as worker,
                worker.backend_processes.open("echo.py") as handle,
            ):
                messages = handle.messages()
                await messages.receive()
                await handle.send([1, 2])
                assert await messages.receive() == {"echo": [1, 2]}
            assert handle.state is ProcessState.STOPPED
            nursery.cancel_scope.cancel()


WORKER_PROGRAM = """
    import json, socket, sys
    import trio
    from spindle_trio import StreamChannel, connect_worker

    async def main():
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=int(sys.argv[1]))))
        async with connect_worker(StreamChannel(stream)) as worker:
            handle = await worker.backend_processes.spawn("echo.py")
            async for message in handle.messages():
                print(json.dumps(message), flush=True)

    trio.run(main)
"""


async def test_a_worker_program_that_is_killed_is_unloaded(root: Path) -> None:
    """The connection is lost without a word: by SIGKILL, as an out-of-memory kill would do it."""
    near, far = socket.socketpair()
    with trio.fail_after(GUARD_SECONDS):
        async with spindle.open_host(spindle.PythonLauncher()) as host, trio.open_nursery() as nursery:
            channel = StreamChannel(trio.SocketStream(trio.socket.from_stdlib_socket(near)))
            program = await trio.lowlevel.open_process(
                [sys.executable, "-c", textwrap.dedent(WORKER_PROGRAM), str(far.fileno())],
                stdout=subprocess.PIPE,
                pass_fds=[far.fileno()],
            )
            far.close()
            nursery.start_soon(functools.partial(host.serve_worker, channel, "remote", root=root, user_id="ada"))
            assert program.stdout is not None
            async with program.stdout:
                said = json.loads(await program.stdout.receive_some())
                (pid,) = [pid for pid in descendants_of(os.getpid()) if number_inside(pid) == said["pid"]]
                assert host.statistics().states == {ProcessState.RUNNING: 1}
                program.send_signal(signal.SIGKILL)
                await program.wait()
        assert not is_alive(pid)
        assert host.statistics().processes == 0
