"""Commands: a real program, and the script that plays it in memory, are the same to a worker."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio

from spindle_trio import (
    Command,
    DefaultLauncher,
    DuplicateKeyError,
    EntryError,
    Line,
    PayloadError,
    StartupFailedError,
    StartupTimeoutError,
    open_service,
)
from spindle_trio.testing import CommandScript, MemoryLauncher, ScriptedProgram

if TYPE_CHECKING:
    from contract.conftest import World
    from spindle_trio.abc import Launcher

ECHO = """
while read -r line; do echo "$line!"; done
"""


async def echo(program: ScriptedProgram) -> None:
    while True:
        await program.print(f"{await program.receive()}!")


async def wait_for_ever(program: ScriptedProgram) -> None:
    await trio.sleep_forever()


class Programs:
    """Programs in the root of a world: shell scripts, and what plays them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._scripts: dict[str, CommandScript] = {}

    def add(self, shell: str, script: CommandScript, name: str = "program", **options: Any) -> Command:
        path = self._world.root / name
        path.write_text(f"#!/bin/sh\n{shell}")
        path.chmod(0o755)
        self._scripts[name] = script
        return Command([f"./{name}"], **options)

    def launcher(self) -> Launcher:
        if self._world.is_virtual:
            return MemoryLauncher(commands=self._scripts)
        return DefaultLauncher(spares=1)

    def worker(self, **options: Any) -> Any:
        return self._world.worker(launcher=self.launcher(), **options)


@pytest.fixture
def programs(world: World) -> Programs:
    return Programs(world)


async def test_a_program_that_exits_with_0_has_completed(programs: Programs, world: World) -> None:
    async def script(program: ScriptedProgram) -> None:
        await trio.sleep(0.1)

    command = programs.add("sleep 0.1", script)
    async with programs.worker() as worker:
        handle = await worker.backend_processes.spawn(command)
        assert handle.entry == handle.kind == "./program"
        info = await handle.wait_ended()
    assert (str(info.state), info.error, handle.result) == ("completed", None, None)
    assert world.states() == ["starting", "running", "completed"]


async def test_a_program_that_exits_with_another_code_has_failed(programs: Programs, world: World) -> None:
    async def script(program: ScriptedProgram) -> int:
        await trio.sleep(0.1)
        await program.print("no such table", to_stderr=True)
        return 3

    command = programs.add("sleep 0.1; echo no such table >&2; exit 3", script)
    async with programs.worker() as worker:
        handle = await worker.backend_processes.spawn(command)
        info = await handle.wait_ended()
    assert (str(info.state), info.error) == ("failed", "exited with code 3")
    assert handle.post_mortem is not None
    assert handle.post_mortem.stderr.strip() == "no such table"


async def test_a_program_that_is_done_before_it_is_ready_has_failed(programs: Programs, world: World) -> None:
    async def script(program: ScriptedProgram) -> int:
        return 0

    command = programs.add("exit 0", script, ready=Line("up"))
    async with programs.worker() as worker:
        with pytest.raises(StartupFailedError, match="exited with code 0 before it was ready"):
            await worker.backend_processes.spawn(command)


@pytest.mark.parametrize("to_stderr", [False, True])
async def test_a_program_is_ready_by_a_line(programs: Programs, to_stderr: bool) -> None:
    async def script(program: ScriptedProgram) -> None:
        await program.print("setting up", to_stderr=to_stderr)
        await program.print("listening on 80", to_stderr=to_stderr)
        await trio.sleep_forever()

    command = programs.add(
        f"exec {'>&2' if to_stderr else ''}; echo setting up; echo listening on 80; exec sleep 60",
        script,
        ready=Line(r"listening on \d+"),
    )
    async with programs.worker() as worker:
        handle = await worker.backend_processes.spawn(command)
        assert handle.state == "running"
        await handle.stop()
    assert (str(handle.info.state), handle.info.error) == ("stopped", None)


async def test_a_program_that_never_becomes_ready_is_killed_at_its_deadline(programs: Programs, world: World) -> None:
    command = programs.add("exec sleep 60", wait_for_ever, ready=Line("up"))
    async with programs.worker() as worker:
        with pytest.raises(StartupTimeoutError, match=r"not ready within 0\.4 s"):
            await worker.backend_processes.spawn(command, startup_timeout=0.4)


async def test_lines_go_both_ways_in_order(programs: Programs, world: World) -> None:
    command = programs.add(ECHO, echo, lane="lines")
    async with programs.worker() as worker:
        handle = await worker.backend_processes.spawn(command, heartbeat_timeout=math.inf)
        for line in ("a", "", "ü b"):
            await handle.send(line)
        await world.wait_payload("ü b!")
        await handle.stop()
    assert world.payloads() == ["a!", "!", "ü b!"]


async def test_a_stop_is_the_signal_of_the_command(programs: Programs, world: World) -> None:
    async def script(program: ScriptedProgram) -> int:
        async def say_ready() -> None:
            await trio.sleep(0.01)
            await program.print("up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say_ready)
            number = await program.wait_signal()
        await program.print(f"got {number}", to_stderr=True)
        return 4

    command = programs.add(
        "trap 'echo got 2 >&2; exit 4' INT; echo up; while :; do sleep 0.01; done",
        script,
        ready=Line("up"),
        stop_signal=signal.SIGINT,
    )
    async with programs.worker() as worker:
        handle = await worker.backend_processes.spawn(command)
        await handle.stop()
    assert (str(handle.info.state), handle.info.error) == ("failed", "exited with code 4")


async def test_a_program_that_ignores_its_signal_is_killed_after_the_grace_period(
    programs: Programs, world: World
) -> None:
    async def script(program: ScriptedProgram) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(program.wait_signal)
            await trio.sleep(0.01)
            await program.print("up")
            await trio.sleep_forever()

    command = programs.add("trap '' TERM; echo up; while :; do sleep 0.01; done", script, ready=Line("up"))
    async with programs.worker() as worker:
        handle = await worker.backend_processes.spawn(command, grace_period=0.2)
        await handle.stop()
    assert handle.info.state == "stopped"
    assert handle.info.error == "did not end within 0.2 s of the stop, and was killed"


async def test_a_program_has_the_variables_and_the_folder_of_its_spawn_and_its_own(
    programs: Programs, world: World
) -> None:
    (world.root / "data").mkdir()

    async def script(program: ScriptedProgram) -> None:
        given = program.environment
        await program.print(f"{given['A']} {given['B']} {given['C']} {program.folder.name}")

    command = programs.add(
        'echo "$A $B $C $(basename $PWD)"', script, lane="lines", environment={"B": "2", "C": "3"}, folder="data"
    )
    async with programs.worker(environment={"PATH": "/usr/bin:/bin", "A": "0"}) as worker:
        await worker.backend_processes.spawn(command, environment={"A": "1", "B": "0"}, folder=".")
        await world.wait_payload("1 2 3 data")


@pytest.mark.parametrize(
    ("lane", "payload", "words"),
    [
        ("none", "a", r"the command './program' takes no messages; .* lane='lines'"),
        ("lines", 3, "a message to a program that reads lines is a str, not int"),
        ("lines", "a\nb", r"one line, without '\\n' and '\\r'"),
        ("lines", "a\r", r"one line, without '\\n' and '\\r'"),
        ("jsonrpc", "a", "a message to a JSON-RPC program is a dict, not str"),
        ("jsonrpc", {"method": 3}, "has 'method' and perhaps 'params', or 'id' with 'result' or 'error'"),
        ("jsonrpc", {"method": "a", "id": 1}, "has 'method' and perhaps 'params'"),
        ("jsonrpc-headers", {"id": 1}, "has 'method' and perhaps 'params'"),
        ("jsonrpc", {"method": "a", "params": "b"}, "params"),
        ("jsonrpc", {"method": "a", "params": {1}}, "set is not JSON-safe"),
    ],
)
async def test_a_message_that_a_lane_cannot_carry_is_refused(
    programs: Programs, world: World, lane: str, payload: object, words: str
) -> None:
    command = programs.add("exec sleep 60", wait_for_ever, lane=lane)
    async with programs.worker() as worker:
        handle = await worker.backend_processes.spawn(command)
        with pytest.raises(PayloadError, match=words):
            await handle.send(payload)
        with pytest.raises(PayloadError, match=words):
            handle.send_nowait(payload)
        assert handle.state == "running"


async def test_a_program_that_is_not_there_is_refused_before_anything_runs(programs: Programs, world: World) -> None:
    programs.add("", wait_for_ever)
    async with programs.worker() as worker:
        for argv in (["no-such-program"], ["./none"], ["/none"]):
            with pytest.raises(EntryError, match=argv[0]):
                await worker.backend_processes.spawn(Command(argv))
        with pytest.raises(EntryError, match="or a Command, not 3"):
            await worker.backend_processes.spawn(3)
        with pytest.raises(EntryError, match="climbs through"):
            await worker.backend_processes.spawn(Command(["./program"], folder="../none"))
    assert world.events == []


ALLOWED: list[tuple[Any, bool]] = [
    (None, True),
    ([], False),
    (["program"], False),  # a name that is looked up; this is a path
    (["ls", "{root}/program"], True),
    (["{root}/other"], False),
    (lambda command: command.argv == ("./program",), True),
    (lambda command: False, False),
]


@pytest.mark.parametrize(("commands", "is_allowed"), ALLOWED)
async def test_a_host_says_which_commands_its_workers_may_run(
    programs: Programs, world: World, commands: Any, is_allowed: bool
) -> None:
    if isinstance(commands, list):
        commands = [name.format(root=world.root) for name in commands]
    command = programs.add("exec sleep 60", wait_for_ever)
    async with programs.worker(commands=commands) as worker:
        if is_allowed:
            await worker.backend_processes.spawn(command)
        else:
            with pytest.raises(EntryError, match=r"this host does not allow the command './program'"):
                await worker.backend_processes.spawn(command)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (lambda command: 1, "it returned 1, and only True allows a command"),
        (lambda command: 1 / 0, "the host's commands function raised ZeroDivisionError"),
    ],
)
async def test_a_function_that_does_not_say_true_allows_nothing(
    programs: Programs, answers: Callable[[Command], Any], words: str
) -> None:
    command = programs.add("exec sleep 60", wait_for_ever)
    async with programs.worker(commands=answers) as worker:
        with pytest.raises(EntryError, match=words):
            await worker.backend_processes.spawn(command)


async def test_a_key_holds_for_commands_as_for_entries(programs: Programs) -> None:
    command = programs.add("exec sleep 60", wait_for_ever)
    async with programs.worker() as worker:
        await worker.backend_processes.spawn(command, key="db")
        with pytest.raises(DuplicateKeyError):
            await worker.backend_processes.spawn(command, key="db")
        async with worker.backend_processes.open(command, key="db", replace_existing=True) as handle:
            assert [info.process_id for info in await worker.backend_processes.list()] == [handle.process_id]


async def test_a_service_starts_a_program_again(programs: Programs, world: World) -> None:
    async def script(program: ScriptedProgram) -> int:
        return 7 if await program.receive() == "end" else 0

    command = programs.add('read -r line; test "$line" = end && exit 7', script, lane="lines")
    async with programs.worker() as worker, open_service(worker, command, key="db") as service:
        assert service.entry == "./program"
        assert "./program" in repr(service)
        first = await service.wait_running()
        await first.send("end")
        await first.wait_ended()
        second = await service.wait_running()
        assert second.process_id != first.process_id
    assert first.info.error == "exited with code 7"
