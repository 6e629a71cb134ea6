"""First mistakes of new users: each error says what is wrong and what to type."""

from __future__ import annotations

import asyncio  # noqa: TID251  # what a program must not use here
import re
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio
import trio.testing

import spindle_trio as spindle
from spindle_trio.child import ProcessContext
from spindle_trio.testing import EventRecorder, MemoryLauncher


async def echo(process: ProcessContext) -> None:
    process.ready()
    process.beat_while_running()
    await trio.sleep_forever()


LEFT, RIGHT = trio.testing.memory_stream_pair()
CONNECTION = spindle.StreamChannel(LEFT)


@pytest.mark.parametrize(
    "block", [lambda: spindle.open_host(MemoryLauncher({})), lambda: spindle.connect_worker(CONNECTION)]
)
def test_under_asyncio_a_block_says_that_it_needs_trio(block) -> None:
    async def main() -> None:
        async with block():
            pass

    with pytest.raises(RuntimeError, match=r"runs under Trio.* trio\.run\(main\)"):
        asyncio.run(main())


@pytest.mark.parametrize("name", ["DefaultLauncher", "PythonLauncher"])
def test_the_class_of_a_launcher_gets_its_parentheses(name: str) -> None:
    with pytest.raises(TypeError, match=rf"the class {name}.* type: open_host\({name}\(\)\)"):
        spindle.open_host(getattr(spindle, name))


def test_no_launcher_at_all_gets_the_names_of_some() -> None:
    with pytest.raises(TypeError, match=r"launcher must be a launcher, .* PythonLauncher\(\), not 'python'"):
        spindle.open_host("python")  # type: ignore[arg-type]


def test_limits_that_are_none_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"Limits\(frame_bytes="):
        spindle.open_host(limits={"frame_bytes": 5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: spindle.open_host(require_containment="docker"),
        lambda: spindle.DefaultLauncher(containment="docker"),
    ],
)
def test_a_level_of_containment_that_does_not_exist_gets_those_that_do(ask) -> None:
    with pytest.raises(ValueError, match="'docker' is not a level of containment; type one of: pidns, cgroup, sweep, "):
        ask()


async def test_a_recorder_of_a_worker_is_told_what_it_takes() -> None:
    async with (
        spindle.open_host(MemoryLauncher({})) as host,
        host.open_worker("w", user_id="ada") as worker,
    ):
        with pytest.raises(TypeError, match=r"type: EventRecorder\(worker\.backend_processes\)"):
            EventRecorder(worker)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("open_block", "to_type"),
    [
        (lambda host, worker: spindle.open_host(), "open_host"),
        (lambda host, worker: host.open_worker("v"), "host.open_worker"),
        (lambda host, worker: worker.backend_processes.open("echo"), "processes.open"),
        (lambda host, worker: spindle.connect_worker(CONNECTION), "connect_worker"),
    ],
)
async def test_a_plain_with_an_await_and_a_loop_get_async_with(open_block, to_type: str) -> None:
    async with (
        spindle.open_host(MemoryLauncher({"echo": echo})) as host,
        host.open_worker("w", user_id="ada") as worker,
    ):
        block = open_block(host, worker)
        assert isinstance(block, AbstractContextManager)
        with pytest.raises(TypeError, match=rf"type: async with {to_type}\(") as refused, block:
            pass
        assert "with" in str(refused.value)
        with pytest.raises(TypeError, match=rf"type: async with {to_type}\("):
            await block
        with pytest.raises(TypeError, match=rf"cannot be iterated; type: async with {to_type}\("):
            async for _ in block:
                pass


def test_a_host_that_was_not_entered_says_so() -> None:
    with pytest.raises(AttributeError, match=r"type: async with open_host\("):
        spindle.open_host().open_worker("w")  # type: ignore[attr-defined]


async def test_a_path_is_taken_as_an_entry() -> None:
    async with (
        spindle.open_host(MemoryLauncher({"dist/echo": echo})) as host,
        host.open_worker("w", user_id="ada") as worker,
    ):
        handle = await worker.backend_processes.spawn(Path("dist") / "echo")
        assert handle.entry == "dist/echo"
        async with worker.backend_processes.open(Path("dist/echo")) as other:
            assert other.info.entry == "dist/echo"
        for wrong in (None, 5, b"dist/echo"):
            with pytest.raises(spindle.EntryError, match="entry must be a str or a path"):
                await worker.backend_processes.spawn(wrong)


async def test_a_handle_in_place_of_its_id_is_told_apart() -> None:
    """A stop that silently stops nothing would be worse than none."""
    async with (
        spindle.open_host(MemoryLauncher({"echo": echo})) as host,
        host.open_worker("w", user_id="ada") as worker,
    ):
        processes = worker.backend_processes
        handle = await processes.spawn("echo")
        for call in (processes.stop, processes.get, lambda it: processes.send(it, 1)):
            with pytest.raises(TypeError, match=r"type: handle\.process_id"):
                await call(handle)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("replace", "; did you mean 'replace_existing' or 'replace_grace'?"),
        ("heartbeat_timout", "; did you mean 'heartbeat_timeout'?"),
        ("xyz", ""),
    ],
)
async def test_an_unknown_option_of_a_spawn_gets_the_nearest_ones(name: str, hint: str) -> None:
    async with (
        spindle.open_host(MemoryLauncher({"echo": echo})) as host,
        host.open_worker("w", user_id="u") as worker,
    ):
        processes = worker.backend_processes
        with pytest.raises(TypeError, match=f"^spawn\\(\\) has no argument {name!r}{re.escape(hint)}$"):
            await processes.spawn("echo", **{name: True})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"^open\\(\\) has no argument {name!r}{re.escape(hint)}$"):
            processes.open("echo", **{name: True})  # type: ignore[arg-type]


async def test_a_spawn_on_the_worker_is_sent_to_its_processes() -> None:
    async with (
        spindle.open_host(MemoryLauncher({"echo": echo})) as host,
        host.open_worker("w", user_id="u") as worker,
    ):
        with pytest.raises(AttributeError, match=r"type: worker\.backend_processes\.spawn$"):
            worker.spawn  # type: ignore[attr-defined]  # noqa: B018
        assert not hasattr(worker, "spwan")


async def test_a_block_that_was_not_entered_has_a_short_repr() -> None:
    block = spindle.open_host(MemoryLauncher({}))
    assert repr(block) == "<async with open_host(…)>"
    async with block as host:
        assert repr(host.open_worker("w", user_id="u")) == "<async with host.open_worker(…)>"


async def test_a_bare_stream_gets_its_channel() -> None:
    stream, _ = trio.testing.memory_stream_pair()
    with pytest.raises(TypeError, match=r"type: connect_worker\(StreamChannel\(stream\)\)"):
        spindle.connect_worker(stream)  # type: ignore[arg-type]
    async with spindle.open_host(MemoryLauncher({})) as host:
        with pytest.raises(TypeError, match=r"type: host\.serve_worker\(StreamChannel\(stream\), …\)"):
            await host.serve_worker(stream, "w")  # type: ignore[arg-type]


def test_an_environment_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(TypeError, match=r"such as os\.environ, not \['PATH'\]"):
        spindle.open_host(environment=["PATH"])  # type: ignore[arg-type]


def test_entries_without_names_get_a_dictionary() -> None:
    with pytest.raises(TypeError, match=r'type: MemoryLauncher\(\{"echo": echo\}\)'):
        MemoryLauncher(echo)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda host, processes, handle: handle.send_nowait(1), "send_nowait"),
        (lambda host, processes, handle: handle.messages(), "messages"),
        (lambda host, processes, handle: processes.messages(), "messages"),
        (lambda host, processes, handle: processes.lifecycle_events(), "lifecycle_events"),
        (lambda host, processes, handle: processes.on_message(print), "on_message"),
        (lambda host, processes, handle: processes.on_lifecycle(print), "on_lifecycle"),
        (lambda host, processes, handle: host.kill(), "kill"),
    ],
)
async def test_a_call_from_another_thread_is_refused_by_name(call, name: str) -> None:
    async with (
        spindle.open_host(MemoryLauncher({"echo": echo})) as host,
        host.open_worker("w", user_id="ada") as worker,
    ):
        processes = worker.backend_processes
        handle = await processes.spawn("echo")
        with pytest.raises(RuntimeError, match=rf"{name}\(\) was called from .* trio\.from_thread\.run_sync\("):
            await trio.to_thread.run_sync(call, host, processes, handle)
        caught: list[BaseException] = []

        def in_a_plain_thread() -> None:
            try:
                call(host, processes, handle)
            except RuntimeError as error:
                caught.append(error)

        thread = threading.Thread(target=in_a_plain_thread)
        thread.start()
        thread.join()
        assert f"{name}()" in str(caught[0])
        assert handle.state == "running"
        assert handle.statistics().outbox_messages == 0
        await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(call, host, processes, handle))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda processes, handle: processes.spawn("echo"), "spawn"),
        (lambda processes, handle: processes.list(), "list"),
        (lambda processes, handle: processes.get(handle.process_id), "get"),
        (lambda processes, handle: processes.stop(handle.process_id), "stop"),
        (lambda processes, handle: processes.release_key(handle.process_id), "release_key"),
        (lambda processes, handle: processes.send(handle.process_id, 1), "send"),
        (lambda processes, handle: handle.send(1), "send"),
        (lambda processes, handle: handle.stop(), "stop"),
        (lambda processes, handle: handle.kill(), "kill"),
        (lambda processes, handle: handle.refresh(), "refresh"),
        (lambda processes, handle: handle.wait_ended(), "wait_ended"),
        (lambda processes, handle: handle.wait_idle(), "wait_idle"),
    ],
)
async def test_what_waits_is_refused_in_the_trio_run_of_another_thread(call, name: str) -> None:
    async with (
        spindle.open_host(MemoryLauncher({"echo": echo})) as host,
        host.open_worker("w", user_id="ada") as worker,
    ):
        processes = worker.backend_processes
        handle = await processes.spawn("echo")
        with pytest.raises(RuntimeError, match=rf"{name}\(\) was called from .* trio\.from_thread\.run\(….{name}, …\)"):
            await trio.to_thread.run_sync(trio.run, call, processes, handle)
        assert handle.state == "running"
