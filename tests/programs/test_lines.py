"""The lane "lines": each line of stdout is a message, each message a line of stdin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from spindle_trio import Containment, Limits, ProcessHandle
from support.containment import levels, require
from support.fork_server import Forked, fork_host, wait_until
from support.programs import python_program, spawn_command

pytestmark = pytest.mark.usefixtures("no_survivors")


async def spawn(forked: Forked, source: str, **options: Any) -> ProcessHandle:
    """Spawn a program in Python with the lane."""
    return await spawn_command(forked, python_program(forked.root, source), lane="lines", **options)


async def all_of(handle: ProcessHandle) -> list[Any]:
    async with handle.messages() as messages:
        return [message async for message in messages]


@pytest.mark.quick(1)
@levels()
async def test_lines_pass_both_ways(tmp_path: Path, level: Containment) -> None:
    await trio.to_thread.run_sync(require, level)
    async with fork_host(tmp_path, containment=level) as forked:
        handle = await spawn_command(forked, ["cat"], lane="lines")
        async with handle.messages() as messages:
            for text in ("one", "", "zwei ü 🐍", " three "):
                await handle.send(text)
                assert await messages.receive() == text
        await handle.stop()
    assert handle.state == "stopped"


async def test_what_is_no_utf_8_is_replaced_and_a_carriage_return_before_the_end_goes(tmp_path: Path) -> None:
    source = r"import os; os.write(1, b'a\xffb\nc\r\n\r\nd\re\0f\n')"
    async with fork_host(tmp_path) as forked:
        assert await all_of(await spawn(forked, source)) == ["a�b", "c", "", "d\re\0f"]


async def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, ["printf", "one\\ntwo"], lane="lines")
        assert await all_of(handle) == ["one", "two"]
        assert handle.state == "completed"


async def test_all_that_was_written_before_an_end_arrives(tmp_path: Path) -> None:
    source = "import os, sys; [print(number) for number in range(5000)]; sys.stdout.flush(); os.kill(os.getpid(), 9)"
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        assert await all_of(handle) == [str(number) for number in range(5000)]
        assert (handle.info.error or "").startswith("killed by SIGKILL")


@pytest.mark.slow
async def test_what_a_daemon_writes_after_the_end_of_its_program_is_not_waited_for(tmp_path: Path) -> None:
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, ["sh", "-c", "yes & echo up; exec sleep 0.05"], lane="lines")
        with trio.fail_after(10):
            assert (await handle.wait_ended()).state == "completed"
        handle = await spawn_command(forked, ["sh", "-c", "sleep 1000 & echo up"], lane="lines")
        with trio.fail_after(10):
            assert await all_of(handle) == ["up"]


@pytest.mark.slow
async def test_a_program_that_nobody_reads_waits(tmp_path: Path) -> None:
    source = """
    import sys
    for number in range(2000):
        sys.stdout.write("x" * 9_999 + "\\n")
        open("out", "w").write(str(number))
    sys.stdout.flush()
    """
    limits = Limits(inbox_bytes=100_000)
    async with fork_host(tmp_path, limits=limits) as forked:
        handle = await spawn(forked, source)
        async with handle.messages() as messages:
            before = None
            while before is None or before != _written(tmp_path):
                before = _written(tmp_path)
                await trio.sleep(0.3)
            assert int(before) < 1000
            received = [message async for message in messages]
        assert len(received) == 2000
        assert handle.state == "completed"


def _written(folder: Path) -> str:
    try:
        return (folder / "out").read_text() or "0"
    except OSError:
        return "0"


@pytest.mark.slow
async def test_a_waiting_program_is_alive(tmp_path: Path) -> None:
    source = "import sys; [print('x' * 9_999) for _ in range(500)]"
    async with fork_host(tmp_path, limits=Limits(inbox_bytes=100_000)) as forked:
        handle = await spawn(forked, source, heartbeat_timeout=0.2)
        async with handle.messages() as messages:
            await trio.sleep(0.7)
            assert handle.state == "running"
            assert len([message async for message in messages]) == 500


@pytest.mark.slow
async def test_a_program_that_does_not_read_makes_its_sender_wait(tmp_path: Path) -> None:
    source = """
    import os, sys, time
    while not os.path.exists("go"): time.sleep(0.005)
    print(sum(1 for _ in sys.stdin if _ != "x"))
    """
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await handle.send("x" * 10_000)
                sent += 1
        assert sent * 10_000 < 16 * 1024 * 1024
        await handle.stop()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a line that never ends", "a line just too long"])
async def test_a_line_without_an_end_fails_the_process(tmp_path: Path, what: str) -> None:
    size, end = (1 << 30, "") if "never" in what else (70_000, "\\n")
    source = f"""
    import os
    chunk = b"x" * 10_000
    for _ in range({size} // len(chunk)): os.write(1, chunk)
    os.write(1, b"{end}")
    open("out", "w").write("written")
    """
    async with fork_host(tmp_path, limits=Limits(frame_bytes=65_536)) as forked:
        handle = await spawn(forked, source)
        info = await handle.wait_ended()
        assert info.state == "failed"
        assert "has written a line of more than 65536 bytes" in (info.error or "")
        if "never" in what:
            assert not (tmp_path / "out").exists()
        # The host goes on.
        assert await all_of(await spawn_command(forked, ["echo", "hello"], lane="lines")) == ["hello"]


async def test_a_gigabyte_without_an_end_fails_with_the_usual_limits(tmp_path: Path) -> None:
    source = "import os\nchunk = b'x' * 65536\nfor _ in range(16384): os.write(1, chunk)"
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        info = await handle.wait_ended()
    assert "has written a line of more than 16777216 bytes" in (info.error or "")


@pytest.mark.slow
async def test_a_gigabyte_without_an_end_is_nothing_to_other_lanes(tmp_path: Path) -> None:
    source = "import os\nchunk = b'x' * 65536\nfor _ in range(1000): os.write(1, chunk)"
    async with fork_host(tmp_path) as forked:
        handle = await spawn_command(forked, python_program(tmp_path, source))
        assert (await handle.wait_ended()).state == "completed"


async def test_messages_to_a_closed_stdin_are_dropped_and_told(tmp_path: Path) -> None:
    source = """
    import os, sys, time
    os.close(0)
    print("closed", flush=True)
    while not os.path.exists("go"): time.sleep(0.005)
    print("on")
    sys.exit(1)
    """
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        async with handle.messages() as messages:
            assert await messages.receive() == "closed"
            await handle.send("one")
            await handle.send("two")
            (tmp_path / "go").touch()
            assert await messages.receive() == "on"
        await handle.wait_ended()
    assert handle.post_mortem is not None
    assert "the program has closed its stdin; messages to it are dropped from now on" in handle.post_mortem.stderr


async def test_a_program_with_a_closed_stdout_still_hears(tmp_path: Path) -> None:
    source = """
    import os, sys
    os.close(1)
    open("out", "w").write(sys.stdin.readline())
    """
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        await handle.send("hello")
        assert (await handle.wait_ended()).state == "completed"
    assert (tmp_path / "out").read_text() == "hello\n"


async def test_what_is_sent_before_a_program_is_ready_waits_for_it(tmp_path: Path) -> None:
    # And stderr is no lane.
    source = "import sys; print('noise', file=sys.stderr); print(input()); print(input())"
    async with fork_host(tmp_path) as forked:
        handle = await spawn(forked, source)
        await handle.send("a")
        await handle.send("b")
        assert await all_of(handle) == ["a", "b"]
        await wait_until(lambda: handle.state == "completed")
