"""Scripts that play the programs of commands, in virtual time; and commands over the worker protocol."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from spindle_trio import (
    BackendProcesses,
    CallFailedError,
    CallTimeoutError,
    Command,
    EntryError,
    Http,
    PayloadError,
    PeerProtocolError,
    SpawnRefusedError,
    StartupFailedError,
    StartupTimeoutError,
    StreamChannel,
    Tcp,
    UnknownMethodError,
    connect_worker,
    open_group,
    open_host,
    open_pool,
    open_service,
)
from spindle_trio.testing import CommandScript, MemoryLauncher, ScriptedProgram
from support.worker_protocol import memory_ends

SERVER = Command(["server"])


@asynccontextmanager
async def processes_with(script: CommandScript, **options: Any) -> AsyncIterator[BackendProcesses]:
    launcher = MemoryLauncher(commands={"server": script})
    async with open_host(launcher, **options) as host, host.open_worker("tests", root="/r", user_id="ada") as worker:
        yield worker.backend_processes


@asynccontextmanager
async def distant_processes_with(
    script: CommandScript, *, as_values: bool = False, **options: Any
) -> AsyncIterator[BackendProcesses]:
    near: Any
    far: Any
    near, far = memory_ends() if as_values else map(StreamChannel, memory_stream_pair())
    launcher = MemoryLauncher(commands={"server": script})
    async with open_host(launcher, **options) as host, trio.open_nursery() as nursery:

        async def serve() -> None:
            await host.serve_worker(near, "tests", root="/r", user_id="ada")

        nursery.start_soon(serve)  # noqa: ASYNC113  # waited for in the next line
        async with connect_worker(far) as worker:
            yield worker.backend_processes


async def sleep(program: ScriptedProgram) -> None:
    await trio.sleep_forever()


async def adds(program: ScriptedProgram) -> None:
    """Answer requests, as a server of JSON-RPC."""
    while True:
        message = await program.receive()
        assert isinstance(message, dict)
        match message:
            case {"id": number, "method": "add", "params": [int(a), int(b)]}:
                await program.send({"jsonrpc": "2.0", "id": number, "result": a + b})
            case {"id": number, "method": "hang"}:
                pass
            case {"id": number, "method": method}:
                error = {"code": -32601, "message": f"no {method}", "data": [1]}
                await program.send({"jsonrpc": "2.0", "id": number, "error": error})
            case _:
                await program.send({"jsonrpc": "2.0", "method": "heard", "params": message})


# ---- notifications


async def test_a_program_says_itself_when_it_is_ready_and_what_it_does(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> None:
        await trio.sleep(3)
        program.notify("STATUS=2 of\t3 tables\nX_UNKNOWN=1")
        await trio.sleep(4)
        program.notify("READY=1")
        await trio.sleep(1)
        program.notify("STATUS=")
        await trio.sleep_forever()

    async with processes_with(script) as processes, trio.open_nursery() as nursery:
        begun = trio.current_time()
        nursery.start_soon(lambda: processes.spawn(Command(["server"], ready="notify"), heartbeat_timeout=math.inf))
        await trio.sleep(3.5)
        (info,) = await processes.list()
        assert (str(info.state), info.status) == ("starting", "2 of 3 tables")
        await trio.sleep(4)
        (info,) = await processes.list()
        assert info.ready_at is not None
        assert (info.ready_at - info.started_at).total_seconds() == pytest.approx(7)
        assert info.status == "2 of 3 tables"
        await trio.sleep(1)
        (info,) = await processes.list()
        assert info.status is None
        assert trio.current_time() - begun == pytest.approx(8.5)


async def test_the_last_status_stays_with_the_end(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> int:
        program.notify("READY=1\nSTATUS=disk full\nERRNO=28")
        await trio.sleep(1)
        return 1

    async with processes_with(script) as processes:
        handle = await processes.spawn(Command(["server"], ready="notify"), heartbeat_timeout=math.inf)
        info = await handle.wait_ended()
    assert info.status == "disk full"
    assert info.error == "exited with code 1 (ERRNO=28: ENOSPC, No space left on device)"


async def test_a_program_may_ask_for_more_time_to_start(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> None:
        await trio.sleep(9)
        program.notify("EXTEND_TIMEOUT_USEC=20000000")
        await trio.sleep(19)
        program.notify("READY=1")
        await trio.sleep_forever()

    async with processes_with(script) as processes:
        handle = await processes.spawn(
            Command(["server"], ready="notify"), startup_timeout=10, heartbeat_timeout=math.inf
        )
        assert trio.current_time() == pytest.approx(28)
        assert handle.state == "running"


async def test_a_program_that_is_late_all_the_same_has_timed_out(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> None:
        program.notify("EXTEND_TIMEOUT_USEC=20000000")
        await trio.sleep_forever()

    async with processes_with(script) as processes:
        with pytest.raises(StartupTimeoutError, match="not ready within 20 s"):
            await processes.spawn(Command(["server"], ready="notify"), startup_timeout=10)
        assert trio.current_time() == pytest.approx(20, abs=0.1)


async def ends_late(program: ScriptedProgram) -> None:
    program.notify("READY=1")
    await program.wait_signal()
    while True:
        program.notify("EXTEND_TIMEOUT_USEC=4000000")
        await trio.sleep(3)


async def test_a_program_may_ask_for_more_time_to_end_an_hour_in_all(autojump_clock: MockClock) -> None:
    async with processes_with(ends_late) as processes:
        handle = await processes.spawn(Command(["server"], ready="notify"), heartbeat_timeout=math.inf, grace_period=2)
        begun = trio.current_time()
        await handle.stop()
        assert trio.current_time() - begun == pytest.approx(3602)
    assert handle.info.error == "did not end within 3602 s of the stop, and was killed"


async def test_a_host_that_closes_gives_no_more_time(autojump_clock: MockClock) -> None:
    async with processes_with(ends_late, grace_period=2) as processes:
        await processes.spawn(Command(["server"], ready="notify"), heartbeat_timeout=math.inf)
        begun = trio.current_time()
    assert trio.current_time() - begun == pytest.approx(2)


async def test_a_stop_with_a_grace_of_its_own_takes_back_what_was_granted(autojump_clock: MockClock) -> None:
    async with processes_with(ends_late) as processes, trio.open_nursery() as nursery:
        handle = await processes.spawn(Command(["server"], ready="notify"), heartbeat_timeout=math.inf)
        begun = trio.current_time()
        nursery.start_soon(handle.stop)
        await trio.sleep(100)
        await handle.stop(grace=0)
        assert trio.current_time() - begun == pytest.approx(100)


async def test_a_program_with_a_watchdog_beats_by_its_notifications(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> None:
        program.notify("READY=1")
        for _ in range(3):
            await trio.sleep(1)
            program.notify("WATCHDOG=1")
        await trio.sleep_forever()

    async with processes_with(script) as processes:
        handle = await processes.spawn(Command(["server"], ready="notify"), heartbeat_timeout=2)
        info = await handle.wait_ended()
    assert (str(info.state), info.error) == ("timed_out", "no heartbeat for 2 s")
    assert trio.current_time() == pytest.approx(5, abs=0.5)


async def test_a_program_of_another_kind_beats_while_it_lives(autojump_clock: MockClock) -> None:
    async with processes_with(sleep) as processes:
        handle = await processes.spawn(SERVER, heartbeat_timeout=2)
        await trio.sleep(60)
        assert handle.state == "running"


async def test_a_notification_without_a_socket_is_a_mistake_of_the_script(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> None:
        program.notify("READY=1")

    async with processes_with(script) as processes:
        handle = await processes.spawn(SERVER)
        info = await handle.wait_ended()
    assert str(info.error).startswith("RuntimeError: this program has no NOTIFY_SOCKET; spawn it by Command(…, ready=")


# ---- other ways to be ready, and ends


@pytest.mark.parametrize("ready", [Tcp(5432), Http("http://127.0.0.1:8000/health")])
async def test_a_program_is_ready_once_it_listens(ready: Tcp | Http, autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> None:
        assert program.command.ready == ready
        await trio.sleep(7)
        program.listen()
        await trio.sleep_forever()

    async with processes_with(script) as processes:
        await processes.spawn(Command(["server"], ready=ready))
        assert trio.current_time() == pytest.approx(7)


async def test_a_script_that_raises_or_returns_no_code_fails_with_that(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> Any:
        await trio.sleep(1)
        if program.argv[1:]:
            raise KeyError("x")
        return "done"

    async with processes_with(script) as processes:
        handle = await processes.spawn(SERVER)
        info = await handle.wait_ended()
        assert info.error == "TypeError: the script of 'server' returned 'done'; a program exits with an int, or None"
        handle = await processes.spawn(Command(["server", "-x"]))
        info = await handle.wait_ended()
        assert str(info.error).startswith("KeyError: 'x'")


@pytest.mark.parametrize(("lane", "words"), [("none", "has no such messages"), ("lines", "use print")])
async def test_a_script_reads_and_writes_only_what_its_lane_has(
    lane: Any, words: str, autojump_clock: MockClock
) -> None:
    async def script(program: ScriptedProgram) -> None:
        with pytest.raises(ValueError, match="more than one line"):
            await program.print("a\nb")
        await program.send({"method": "a"})

    async with processes_with(script) as processes:
        handle = await processes.spawn(Command(["server"], lane=lane))
        info = await handle.wait_ended()
    assert words in str(info.error)


async def test_a_script_reads_and_writes_bytes(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> None:
        while (data := await program.receive()) is not None:
            assert isinstance(data, bytes)
            await program.write(data[::-1])
        await program.print("bye", to_stderr=True)

    async with processes_with(script) as processes:
        handle = await processes.spawn(Command(["server"], lane="bytes"))
        async with handle.messages() as messages:
            await handle.send(b"\xff\x00ab")
            await handle.send(None)
            assert [payload async for payload in messages] == [{"stdout": b"ba\x00\xff"}, {"stderr": b"bye\n"}]


async def test_a_script_without_that_lane_writes_no_bytes(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> None:
        await program.write(b"a")

    async with processes_with(script) as processes:
        handle = await processes.spawn(SERVER)
        info = await handle.wait_ended()
    assert "only a program with lane='bytes' writes bytes" in str(info.error)


async def test_a_launcher_says_which_programs_it_has(autojump_clock: MockClock) -> None:
    async with processes_with(sleep) as processes:
        with pytest.raises(EntryError, match=r"no program 'other' in this MemoryLauncher; it has: 'server'; type: "):
            await processes.spawn(Command(["other"]))
        handle = await processes.spawn(Command(["/opt/bin/server", "-v"]))
        assert handle.entry == "/opt/bin/server -v"
    with pytest.raises(TypeError, match=r"type: MemoryLauncher\(commands="):
        MemoryLauncher(commands=[sleep])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the script of 'a' must be an `async def` function, not a plain function"):
        MemoryLauncher(commands={"a": lambda program: None})  # type: ignore[dict-item,return-value]
    assert repr(MemoryLauncher(commands={"a": sleep})) == "<MemoryLauncher 0 entries, 1 commands, 0 live>"


async def test_an_unknown_program_of_an_allowed_name_is_still_allowed_by_its_path(autojump_clock: MockClock) -> None:
    async with processes_with(sleep, commands={"/opt/bin/server"}) as processes:
        await processes.spawn(Command(["/opt/bin/server"]))
        with pytest.raises(EntryError, match="does not allow the command '/opt/server'"):
            await processes.spawn(Command(["/opt/server"]))
        with pytest.raises(EntryError, match="does not allow the command 'server'"):
            await processes.spawn(SERVER)


# ---- JSON-RPC


@pytest.mark.parametrize("lane", ["jsonrpc", "jsonrpc-headers"])
async def test_calls_are_requests_and_messages_are_notifications(lane: Any, autojump_clock: MockClock) -> None:
    async with processes_with(adds) as processes:
        handle = await processes.spawn(Command(["server"], lane=lane))
        async with handle.messages() as messages:
            assert await handle.call("add", [1, 2]) == 3
            with pytest.raises(CallFailedError, match="no mul") as caught:
                await handle.call("mul", {"a": 1})
            await handle.send({"method": "exit", "params": {"now": True}})
            heard = await messages.receive()
    assert heard == {
        "method": "heard",
        "params": {"jsonrpc": "2.0", "method": "exit", "params": {"now": True}},
    }
    assert caught.value.error_type == "JsonRpcError"


async def test_messages_and_calls_arrive_in_order(autojump_clock: MockClock) -> None:
    seen: list[object] = []

    async def script(program: ScriptedProgram) -> None:
        while True:
            message = await program.receive()
            assert isinstance(message, dict)
            seen.append(message["method"])
            if "id" in message:
                await program.send({"id": message["id"], "result": None})

    async with processes_with(script) as processes:
        handle = await processes.spawn(Command(["server"], lane="jsonrpc"))
        for number in range(3):
            await handle.send({"method": f"n{number}"})
        await handle.call("c")
    assert seen == ["n0", "n1", "n2", "c"]


async def test_a_request_of_the_program_is_a_message_and_its_answer_another(autojump_clock: MockClock) -> None:
    answers: list[object] = []

    async def script(program: ScriptedProgram) -> None:
        await program.send({"jsonrpc": "2.0", "id": "q1", "method": "sampling", "params": [1]})
        answers.append(await program.receive())
        with pytest.raises(ValueError, match="an answer to request 7, which never was"):
            await program.send({"id": 7, "result": 1})

    async with processes_with(script) as processes:
        handle = await processes.spawn(Command(["server"], lane="jsonrpc"))
        async with handle.messages() as messages:
            question = await messages.receive()
            assert question == {"id": "q1", "method": "sampling", "params": [1]}
            await handle.send({"id": "q1", "result": 5})
            info = await handle.wait_ended()
    assert str(info.state) == "completed"
    assert answers == [{"jsonrpc": "2.0", "id": "q1", "result": 5}]


async def test_a_cancelled_call_is_told_to_the_program(autojump_clock: MockClock) -> None:
    async with processes_with(adds) as processes:
        handle = await processes.spawn(Command(["server"], lane="jsonrpc"))
        async with handle.messages() as messages:
            with pytest.raises(CallTimeoutError):
                await handle.call("hang", timeout=1)
            heard: Any = await messages.receive()
    assert heard["params"]["method"] == "notifications/cancelled"
    assert heard["params"]["params"]["requestId"] == 1


async def test_a_program_without_that_lane_takes_no_calls(autojump_clock: MockClock) -> None:
    async with processes_with(sleep) as processes:
        handle = await processes.spawn(SERVER)
        with pytest.raises(UnknownMethodError):
            await handle.call("add", [1, 2])


async def test_a_pool_calls_programs(autojump_clock: MockClock) -> None:
    launcher = MemoryLauncher(commands={"server": adds})
    async with (
        open_host(launcher) as host,
        host.open_worker("tests", root="/r", user_id="ada") as worker,
        open_pool(worker, Command(["server"], lane="jsonrpc"), size=2) as pool,
    ):
        assert await pool.call("add", [1, 2]) == 3
        assert "server" in repr(pool)
        with pytest.raises(ValueError, match="a Command takes no payload"):
            open_pool(worker, SERVER, payload=1)


async def test_a_group_starts_programs_in_order(autojump_clock: MockClock) -> None:
    launcher = MemoryLauncher(commands={"server": sleep})
    async with (
        open_host(launcher) as host,
        host.open_worker("tests", root="/r", user_id="ada") as worker,
        open_group(worker, strategy="rest_for_one") as group,
    ):
        first = await group.start(SERVER)
        second = await group.start(Command(["server", "-b"]), name="b")
        assert (first.entry, second.entry) == ("server", "server -b")


# ---- over the worker protocol


async def test_a_connected_worker_runs_no_command_unless_its_host_says_so(autojump_clock: MockClock) -> None:
    async with distant_processes_with(sleep) as processes:
        with pytest.raises(EntryError, match=r"lets a connected worker run no commands, .* commands=\{'server'\}"):
            await processes.spawn(SERVER)
        with pytest.raises(EntryError, match="lets a connected worker run no commands"):
            await processes.spawn(Command(["other"]))  # it is not told whether there is one


async def test_a_connected_worker_runs_what_its_host_allows(autojump_clock: MockClock) -> None:
    async with distant_processes_with(adds, commands={"server"}) as processes:
        handle = await processes.spawn(Command(["server"], lane="jsonrpc", ready="started"))
        assert await handle.call("add", [1, 2]) == 3
        with pytest.raises(PayloadError, match="a message to a JSON-RPC program is a dict"):
            await handle.send("x")
        with pytest.raises(EntryError, match="does not allow the command 'other'"):
            await processes.spawn(Command(["other"]))
        assert handle.state == "running"


async def test_a_connected_worker_keeps_a_program_up(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> int:
        await trio.sleep(60)
        return 1

    near, far = map(StreamChannel, memory_stream_pair())
    launcher = MemoryLauncher(commands={"server": script})
    async with open_host(launcher, commands={"server"}) as host, trio.open_nursery() as nursery:

        async def serve() -> None:
            await host.serve_worker(near, "tests", root="/r", user_id="ada")

        nursery.start_soon(serve)
        async with connect_worker(far) as worker, open_service(worker, Command(["server", "-x"]), key="db") as service:
            assert service.entry == "server -x"
            await trio.sleep(100)
            await service.wait_running()
            assert service.generation == 2


@pytest.mark.parametrize("as_values", [False, True])
@pytest.mark.parametrize("entry", [3, b"server", Command(["server", "\udcff"])], ids=repr)
async def test_what_is_no_entry_is_refused_over_any_channel_and_the_next_is_run(
    entry: Any, as_values: bool, autojump_clock: MockClock
) -> None:
    async with distant_processes_with(sleep, as_values=as_values, commands={"server"}) as processes:
        if as_values and isinstance(entry, Command):  # no byte of it is written
            await processes.spawn(entry)
        else:
            with pytest.raises((EntryError, PayloadError, PeerProtocolError)):
                await processes.spawn(entry)
        handle = await processes.spawn(SERVER)
        assert handle.entry == "server"


@pytest.mark.parametrize("name", ["environment", "folder"])
async def test_what_surrounds_the_command_of_a_connected_worker_is_its_hosts_to_allow(
    name: str, autojump_clock: MockClock
) -> None:
    given: dict[str, Any] = {"environment": {"LD_PRELOAD": "/x.so"}, "folder": "data"}
    command = Command(["server"], **{name: given[name]})
    async with distant_processes_with(sleep, commands={"server"}) as processes:
        with pytest.raises(SpawnRefusedError, match=f"options.{name}: this host does not let a connected worker set"):
            await processes.spawn(command)
    async with distant_processes_with(sleep, commands={"server"}, allow=[name]) as processes:
        await processes.spawn(command)


async def test_the_status_of_a_distant_program_comes_with_a_refresh(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> None:
        program.notify("READY=1\nSTATUS=idle")
        await trio.sleep(5)
        program.notify("STATUS=busy")
        await trio.sleep_forever()

    async with distant_processes_with(script, commands=lambda command: True) as processes:
        handle = await processes.spawn(Command(["server"], ready="notify"), heartbeat_timeout=math.inf)
        await trio.sleep(6)
        info = await handle.refresh()
        assert info is not None
        assert info.status == handle.info.status == "busy"


@pytest.mark.parametrize(
    ("commands", "error", "words"),
    [
        ("git", TypeError, "commands must be programs, as in commands={'git'}, a function or None, not 'git'"),
        (3, TypeError, "commands must be programs"),
        ([3], TypeError, "commands must be a collection of str; 3 is not a str"),
        (["bin/git"], ValueError, "commands takes names of programs on the PATH and absolute paths, not 'bin/git'"),
        ([""], ValueError, "commands takes names"),
        (sleep, TypeError, "commands is called without waiting"),
    ],
)
def test_what_says_which_commands_are_allowed_is_checked(commands: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        open_host(commands=commands)
    assert words in str(caught.value)


async def test_a_program_that_exits_before_it_is_ready_is_in_the_error(autojump_clock: MockClock) -> None:
    async def script(program: ScriptedProgram) -> int:
        await program.print("no license", to_stderr=True)
        return 2

    async with processes_with(script) as processes:
        with pytest.raises(StartupFailedError, match=r"exited with code 2(.|\n)*no license"):
            await processes.spawn(Command(["server"], ready="notify"))


def test_the_folder_of_a_script_is_that_of_its_spawn() -> None:
    async def main() -> None:
        folders: list[Path] = []

        async def script(program: ScriptedProgram) -> None:
            folders.append(program.folder)

        async with processes_with(script) as processes:
            for command in (SERVER, Command(["server"], folder="b")):
                handle = await processes.spawn(command, folder="a")
                await handle.wait_ended()
        assert folders == [Path("/r/a"), Path("/r/b")]

    trio.run(main, clock=MockClock(autojump_threshold=0))
