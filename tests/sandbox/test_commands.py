"""Commands in sandboxes: the shim goes in before it starts the program, and only what works in there is accepted."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import attrs
import pytest
import trio

import spindle_trio
from spindle_trio import READ_ONLY, WORKSPACE_WRITE, Command, ProcessHandle, Sandbox, Worker

GUARD_SECONDS = 30


@pytest.fixture
async def worker(tmp_path: Path):  # type: ignore[no-untyped-def]
    (tmp_path / "base").mkdir()
    (tmp_path / "secret").write_text("secret")
    with trio.fail_after(GUARD_SECONDS):
        async with (
            spindle_trio.open_host(sandbox=READ_ONLY) as host,
            host.open_worker("w", root=tmp_path / "base", user_id="u") as worker,
        ):
            yield worker


async def lines_of(worker: Worker, script: str, sandbox: Sandbox | None = None) -> tuple[list[object], ProcessHandle]:
    handle = await worker.backend_processes.spawn(Command(["sh", "-c", script], lane="lines"), sandbox=sandbox)
    lines = [message async for message in handle.messages()]
    await handle.wait_ended()
    return lines, handle


async def test_a_command_is_in_the_sandbox_of_its_host(worker: Worker, tmp_path: Path) -> None:
    forbidden = f"cat {tmp_path}/secret || echo refused; echo x > {tmp_path}/base/new || echo refused"
    script = f"{forbidden}; echo x > $TMPDIR/x; ls $TMPDIR"
    lines, _ = await lines_of(worker, script)
    assert lines == ["refused", "refused", "x"]


async def test_a_command_is_in_its_own_sandbox(worker: Worker, tmp_path: Path) -> None:
    await lines_of(worker, f"echo x > {tmp_path}/base/new", WORKSPACE_WRITE)
    assert (tmp_path / "base/new").exists()


async def test_its_private_folder_is_gone_when_it_has_ended(worker: Worker) -> None:
    lines, handle = await lines_of(worker, "mkdir -p $TMPDIR/a/b; chmod 0 $TMPDIR/a; echo $TMPDIR")
    assert handle.state == "completed"
    while Path(str(lines[0])).exists():
        await trio.sleep(0.01)


@pytest.mark.slow
async def test_the_program_cannot_start_processes_but_its_shim_can(worker: Worker) -> None:
    lines, handle = await lines_of(worker, "echo before; ls; echo after", Sandbox(subprocesses=False))
    assert lines == ["before"]
    assert handle.info.error == "exited with code 2"
    assert handle.post_mortem is not None
    assert "Cannot fork" in handle.post_mortem.stderr


@pytest.mark.slow
async def test_a_command_that_notifies_can_do_so_and_no_more(worker: Worker) -> None:
    program = (
        "import os, socket\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n"
        "try: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)\n"
        "except PermissionError: print('refused')\n"
    )
    handle = await worker.backend_processes.spawn(
        Command([sys.executable, "-c", program], ready="notify", lane="lines"), heartbeat_timeout=math.inf
    )
    assert [message async for message in handle.messages()] == ["refused"]
    assert handle.state == "completed"


@pytest.mark.parametrize("ready", [spindle_trio.Tcp(8_099), spindle_trio.Http("http://127.0.0.1:8099/")])
async def test_a_readiness_that_needs_a_network_is_refused_without_one(
    worker: Worker, ready: spindle_trio.Tcp | spindle_trio.Http
) -> None:
    command = Command([sys.executable, "-m", "http.server", "8099"], ready=ready)
    with pytest.raises(spindle_trio.SandboxError, match="its sandbox has network='none'; give it network='host', or "):
        await worker.backend_processes.spawn(command)


async def test_a_program_of_its_own_folder_finds_its_installation(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "tool/bin").mkdir(parents=True)
    (tmp_path / "tool/lib").mkdir()
    (tmp_path / "tool/lib/part").write_text("found")
    program = tmp_path / "tool/bin/tool"
    program.write_text(f'#!{shutil.which("sh")}\ncat "{tmp_path}/tool/lib/part"\n')
    program.chmod(0o755)
    handle = await worker.backend_processes.spawn(Command([str(program)], lane="lines"))
    assert [message async for message in handle.messages()] == ["found"]


async def test_a_server_of_a_sandbox_with_a_network_is_ready_when_it_listens(worker: Worker) -> None:
    with trio.socket.socket() as free:
        await free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sandbox = attrs.evolve(READ_ONLY, network="host")
    command = Command([sys.executable, "-m", "http.server", str(port)], ready=spindle_trio.Tcp(port))
    handle = await worker.backend_processes.spawn(command, sandbox=sandbox)
    assert handle.state == "running"
