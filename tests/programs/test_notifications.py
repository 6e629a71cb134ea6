"""What a program says of itself by sd_notify, with every field, and what is ignored."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio

from spindle_trio import Containment, Line, ProcessHandle, StartupFailedError, StartupTimeoutError
from support.containment import AS_NOBODY, levels, require
from support.fork_server import Forked, fork_host, wait_until
from support.programs import python_program, spawn_command

pytestmark = pytest.mark.usefixtures("no_survivors")

NOTIFIES = """
import array, os, signal, socket, subprocess, sys, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def tell(text, fds=()):
    data = text if isinstance(text, bytes) else text.encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    notify.sendmsg([data], rights, 0, os.environ["NOTIFY_SOCKET"])
def barrier():
    here, there = os.pipe()
    tell("BARRIER=1", [there])
    os.close(there)
    assert os.read(here, 1) == b""
def wait():
    while True: time.sleep(1000)
"""


async def spawn(forked: Forked, source: str, **options: Any) -> ProcessHandle:
    """Spawn a program that notifies."""
    argv = python_program(forked.root, NOTIFIES + "\n" + source)
    return await spawn_command(forked, argv, ready="notify", **{"heartbeat_timeout": math.inf, **options})


def written(folder: Path, name: str = "out") -> str:
    return (folder / name).read_text()


# Being ready.


@pytest.mark.quick(1)
@levels()
async def test_a_program_says_that_it_is_ready(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    async with fork_host(tmp_path, containment=level) as forked:
        handle = await spawn(forked, "time.sleep(0.01); open('out', 'w').write('up'); tell('READY=1'); wait()")
        assert written(tmp_path) == "up"
        await handle.stop()
    assert handle.state == "stopped"


async def test_ready_and_the_end_right_after_it_are_both_heard(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, "tell('READY=1')")
        assert (await handle.wait_ended()).state == "completed"
        assert [event.state for event in forked.events] == ["starting", "running", "completed"]


async def test_anything_else_than_ready_is_not_ready(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        with pytest.raises(StartupTimeoutError):
            await spawn(forked, "tell('READY=0'); tell('WATCHDOG=1'); tell('X_READY=1'); wait()", startup_timeout=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["is stopped", "is killed"])
async def test_the_folder_of_the_socket_is_closed_to_others_and_removed_at_the_end(tmp_path: Path, end: str) -> None:
    source = "open('out', 'w').write(os.environ['NOTIFY_SOCKET']); tell('READY=1'); wait()"
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        path = Path(written(tmp_path))
        assert path.parent.stat().st_uid == os.geteuid()
        # A superuser's program may go on as another user, who has to pass; nobody else can list it.
        assert path.parent.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
        await (handle.stop() if end == "is stopped" else handle.kill())
        await wait_until(lambda: not path.parent.exists())


@pytest.mark.slow
async def test_a_long_folder_for_temporary_files_leaves_the_socket_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    source = "open('out', 'w').write(os.environ['NOTIFY_SOCKET']); tell('READY=1'); wait()"
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        place = Path(written(tmp_path)).parent
        assert place.parent == Path("/tmp")
        await handle.kill()
        await wait_until(lambda: not place.exists())


# Heartbeats.


@pytest.mark.slow
async def test_a_program_is_told_how_often_to_beat(tmp_path: Path) -> None:
    source = """
open('out', 'w').write(os.environ.get('WATCHDOG_USEC', 'none') + ' ' + os.environ.get('WATCHDOG_PID', 'none'))
tell('READY=1'); wait()
"""
    async with fork_host(tmp_path) as forked:
        await (await spawn(forked, source, heartbeat_timeout=2.5)).stop()
        assert written(tmp_path) == "2500000 none"
        await (await spawn(forked, source)).stop()
        assert written(tmp_path) == "none none"


@pytest.mark.slow
async def test_a_program_that_beats_lives_and_one_that_stops_beating_is_ended(tmp_path: Path) -> None:
    source = """
tell('READY=1')
for _ in range(20):
    tell('WATCHDOG=1')
    time.sleep(0.05)
open('out', 'w').write('beaten')
wait()
"""
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source, heartbeat_timeout=0.5)
        info = await handle.wait_ended()
    assert info.state == "timed_out"
    assert written(tmp_path) == "beaten"


@pytest.mark.slow
async def test_a_program_that_never_beats_is_ended(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, "tell('READY=1'); wait()", heartbeat_timeout=0.4)
        assert (await handle.wait_ended()).state == "timed_out"
    assert handle.post_mortem is not None
    assert "if it never sends any, spawn it with heartbeat_timeout=math.inf" in handle.post_mortem.stderr
    assert handle.post_mortem.stacks is None, "those of the shim say nothing of the program"


@pytest.mark.slow
@pytest.mark.parametrize("ready", ["started", Line("up")], ids=["started", "line"])
async def test_the_shim_beats_for_a_program_that_does_not_notify(tmp_path: Path, ready: Any) -> None:
    async with fork_host(tmp_path) as forked:
        argv = ["sh", "-c", "echo up; sleep 0.7"]
        handle = await spawn_command(forked, argv, ready=ready, heartbeat_timeout=0.2)
        assert (await handle.wait_ended()).state == "completed"


async def test_a_program_may_ask_to_be_ended(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, "tell('READY=1'); tell('WATCHDOG=trigger'); wait()")
        info = await handle.wait_ended()
    assert info.state == "failed"
    assert "WATCHDOG=trigger" in (info.error or "")


@pytest.mark.slow
async def test_a_program_that_is_stopping_need_not_beat_for_the_grace_period(tmp_path: Path) -> None:
    source = "tell('READY=1\\nSTOPPING=1'); time.sleep(0.8)"
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source, heartbeat_timeout=0.2, grace_period=10)
        assert (await handle.wait_ended()).state == "completed"
        handle = await spawn(forked, source, heartbeat_timeout=0.2, grace_period=0.1)
        assert (await handle.wait_ended()).state == "timed_out"


# Its end.


@pytest.mark.slow
async def test_the_error_number_of_a_program_is_named_at_a_bad_end(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, "tell('READY=1'); tell('ERRNO=2'); sys.exit(1)")
        info = await handle.wait_ended()
        assert info.error == "exited with code 1 (ERRNO=2: ENOENT, No such file or directory)"
        handle = await spawn(forked, "tell('READY=1'); tell('ERRNO=2'); sys.exit(0)")
        assert (await handle.wait_ended()).state == "completed"


async def test_another_process_of_the_tree_may_be_the_one_that_counts(tmp_path: Path) -> None:
    source = """
if pid := os.fork():
    time.sleep(0.01)
    os._exit(0)
def end(*_):
    open('out', 'w').write('told'); os._exit(6)
signal.signal(signal.SIGTERM, end)
tell(f'MAINPID={os.getpid()}\\nREADY=1')
while os.getppid() == int(sys.argv[1]) if len(sys.argv) > 1 else False: pass
wait()
"""
    async with fork_host(tmp_path, grace_period=10) as forked:
        handle = await spawn(forked, source)
        await trio.sleep(0.1)
        assert handle.state == "running"
        await handle.stop()
    assert written(tmp_path) == "told"
    assert handle.info.error == "exited with code 6"


async def test_a_process_of_nobody_of_the_tree_never_counts(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        source = f"tell('READY=1\\nMAINPID={os.getpid()}'); tell('MAINPID=1'); barrier(); wait()"
        handle = await spawn(forked, source)
        await handle.stop()
    assert handle.state == "stopped"


# Descriptors.


async def test_a_barrier_is_lifted_once_all_before_it_has_been_heard(tmp_path: Path) -> None:
    source = "tell('READY=1'); barrier(); open('out', 'w').write('through'); wait()"
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        await wait_until((tmp_path / "out").exists)
        await handle.stop()


async def test_descriptors_of_a_program_are_closed(tmp_path: Path) -> None:
    source = """
here, there = os.pipe()
for _ in range(50):
    tell('FDSTORE=1\\nFDNAME=x', [there] * 20)
tell('READY=1', [there])
os.close(there)
open('out', 'wb').write(os.read(here, 1) + b'closed')
wait()
"""
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        await wait_until((tmp_path / "out").exists)
        pid = handle.pid
        assert not [link for link in Path(f"/proc/{pid}/fd").iterdir() if "notify" in os.readlink(link)]
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 30
        await handle.stop()


# Broken and foreign ones.


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no line of the form NAME=value"),
        (b"READY", "no line of the form NAME=value"),
        (b"=1", "no line of the form NAME=value"),
        (b"READY=1\n\xff=1", "not UTF-8"),
        (b"READY=1\0STATUS=x", "zero byte"),
        (b"READY=1\nERRNO=many", "ERRNO is 'many', not a number"),
        (b"EXTEND_TIMEOUT_USEC=-1", "EXTEND_TIMEOUT_USEC is '-1', not a number"),
        (b"MAINPID=99999999999999999999999", "not a number"),
        (b"READY=1\nSTATUS=" + b"x" * 70_000, "longer than 65536 bytes"),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_a_broken_notification_is_ignored_and_named(tmp_path: Path, data: bytes, says: str) -> None:
    async with fork_host(tmp_path) as forked:
        source = f"tell({data!r}); tell({data!r}); tell('ERRNO=1'); barrier(); sys.exit(3)"
        with pytest.raises(StartupFailedError) as caught:
            await spawn(forked, source)
    error = caught.value
    assert "exited with code 3 (ERRNO=1" in str(error)
    assert "a notification of the program was ignored: " in str(error)
    assert says in str(error)
    assert "2 notifications of the program were ignored in all" in str(error)


async def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, "tell('X_COLOUR=blue\\nREADY=1\\nNOTIFYACCESS=all\\nnonsense\\n'); wait()")
        await handle.stop()


@pytest.mark.quick(1)
@levels()
async def test_a_foreign_notification_is_ignored(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    source = """
open('part', 'w').write(os.environ['NOTIFY_SOCKET']); os.rename('part', 'out')
while not os.path.exists('spoken'): time.sleep(0.001)
sys.exit(3)
"""

    async def speak() -> None:
        await wait_until((tmp_path / "out").exists)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as foreign:
            foreign.sendto(b"READY=1", written(tmp_path))
        (tmp_path / "spoken").touch()

    async with fork_host(tmp_path, containment=level) as forked, trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        with pytest.raises(StartupFailedError, match="it comes from a process that the program has not started"):
            await spawn(forked, source)


async def test_a_child_of_the_program_may_speak_for_it(tmp_path: Path) -> None:
    source = """
if os.fork() == 0:
    if os.fork() == 0:
        tell('READY=1'); barrier()
        os._exit(0)
    os._exit(0)
wait()
"""
    async with fork_host(tmp_path) as forked:
        await (await spawn(forked, source)).stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only a superuser's program can go on as another user")
async def test_a_program_that_goes_on_as_another_user_may_notify(tmp_path: Path) -> None:
    source = (
        f"os.setgroups([]); os.setgid({AS_NOBODY['group']}); os.setuid({AS_NOBODY['user']}); tell('READY=1'); wait()"
    )
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        await handle.stop()


@pytest.mark.slow
async def test_a_flood_of_notifications_holds_up_nothing(tmp_path: Path) -> None:
    source = """
tell('READY=1')
end = time.monotonic() + 0.5
while time.monotonic() < end: tell('WATCHDOG=1')
"""
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source, heartbeat_timeout=5)
        assert (await handle.wait_ended()).state == "completed"


async def test_systemds_own_program_is_understood(tmp_path: Path) -> None:
    program = shutil.which("systemd-notify")
    if program is None:
        pytest.skip("there is no systemd-notify here")
    async with fork_host(tmp_path) as forked:
        argv = ["sh", "-c", f"{program} --ready && touch out && exec sleep 1000"]
        handle = await spawn_command(forked, argv, ready="notify", heartbeat_timeout=math.inf)
        await wait_until((tmp_path / "out").exists)
        await handle.stop()


# What the host shows, and how long it waits.


@pytest.mark.slow
async def test_the_status_of_a_program_is_in_its_info(tmp_path: Path) -> None:
    source = """
tell('STATUS=loading'); tell('READY=1')
for name in 'serving  \\t ü', 'x' * 1000:
    while not os.path.exists(name[:3]): time.sleep(0.002)
    tell('STATUS=' + name)
wait()
"""
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        await wait_until(lambda: handle.info.status == "loading")
        (tmp_path / "ser").touch()
        await wait_until(lambda: handle.info.status == "serving ü")
        (tmp_path / "xxx").touch()
        await wait_until(lambda: handle.info.status == "x" * 256)
        assert [event.state for event in forked.events] == ["starting", "running"]
        await handle.stop()


async def test_a_program_that_reads_its_configuration_again_says_so_until_it_is_ready(tmp_path: Path) -> None:
    source = """
def reload(*_):
    tell(f'RELOADING=1\\nMONOTONIC_USEC={time.monotonic_ns() // 1000}')
    while not os.path.exists('go'): time.sleep(0.002)
    tell('READY=1')
signal.signal(signal.SIGHUP, reload)
tell('STATUS=serving\\nREADY=1')
while True: signal.pause()
"""
    async with fork_host(tmp_path, containment=Containment.SWEEP) as forked:
        handle = await spawn(forked, source)
        await wait_until(lambda: handle.info.status == "serving")
        (pid,) = Path(f"/proc/{handle.pid}/task/{handle.pid}/children").read_text().split()
        os.kill(int(pid), signal.SIGHUP)
        await wait_until(lambda: handle.info.status == "reloading")
        (tmp_path / "go").touch()
        await wait_until(lambda: handle.info.status == "serving")
        await handle.stop()


async def test_the_last_status_of_a_program_is_kept(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, "tell('READY=1'); [tell(f'STATUS=step {n}') for n in range(50)]")
        info = await handle.wait_ended()
    assert info.state == "completed"
    assert info.status == "step 49"


@pytest.mark.slow
async def test_a_program_may_ask_for_more_time_to_start(tmp_path: Path) -> None:
    source = "tell('EXTEND_TIMEOUT_USEC=20000000'); time.sleep(1.8); tell('READY=1'); wait()"
    async with fork_host(tmp_path, preload=("trio",)) as forked:
        handle = await spawn(forked, source, startup_timeout=1.5)
        await handle.stop()
        with pytest.raises(StartupTimeoutError):
            await spawn(forked, "tell('EXTEND_TIMEOUT_USEC=700000'); wait()", startup_timeout=0.5)


@pytest.mark.slow
async def test_a_program_may_ask_for_more_time_to_end(tmp_path: Path) -> None:
    source = """
def end(*_):
    tell('STOPPING=1\\nEXTEND_TIMEOUT_USEC=20000000')
    time.sleep(0.6)
    open('out', 'w').write('tidied')
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
tell('READY=1')
while True: signal.pause()
"""
    async with fork_host(tmp_path, grace_period=0.3) as forked:
        handle = await spawn(forked, source)
        await handle.stop()
    assert written(tmp_path) == "tidied"
    assert handle.state == "completed"
