"""`ScriptedChild`: what a test can make a child do, and what it is told when it drives one wrongly."""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spindle_trio import Limits
from spindle_trio._protocol._control_frames import (
    Complete,
    Exiting,
    Fail,
    Ready,
    Stopped,
    encode_init,
    encode_stop,
    parse_child_frame,
)
from spindle_trio._protocol._payload import bounds_of
from spindle_trio.abc import ExitStatus, LaunchedProcess, LaunchOrder
from spindle_trio.testing import MemoryLauncher, ScriptedChild

ROOT = Path("/somewhere")
LIMITS = Limits()


@asynccontextmanager
async def launched(launcher: MemoryLauncher) -> AsyncIterator[LaunchedProcess]:
    order = LaunchOrder("p1", launcher.resolve("child", ROOT), ROOT, {}, LIMITS)
    async with launcher.launch(order) as process:
        init = encode_init(
            process_id="p1",
            entry="child",
            kind="child",
            key="k",
            user_id="ada",
            payload=[1],
            metadata=None,
            heartbeat_timeout=math.inf,
            limits=LIMITS,
        )
        assert process.control.send_nowait(init)
        yield process


async def next_frame(process: LaunchedProcess) -> object:
    (body,) = await process.control.receive(1)
    return parse_child_frame(body, bounds_of(LIMITS))


async def test_it_says_what_it_is_told_to_say(autojump_clock: MockClock) -> None:
    child = ScriptedChild()
    assert repr(child) == "<ScriptedChild not launched>"
    async with launched(MemoryLauncher({"child": child})) as process:
        await child.started()
        assert repr(child) == "<ScriptedChild alive child p1>"
        assert (child.facts.process_id, child.facts.key, child.facts.payload) == ("p1", "k", [1])
        child.ready()
        assert await next_frame(process) == Ready()
        assert process.last_heartbeat() == trio.current_time()
        child.send({"a": 1})
        child.send_raw_message(b"{")
        assert await process.messages.receive(5) == [b'{"a":1}', b"{"]
        child.complete("done")
        assert await next_frame(process) == Complete("done", 2)
        child.complete("lie", messages=7)
        assert await next_frame(process) == Complete("lie", 7)
        child.fail("broken")
        assert await next_frame(process) == Fail("broken", 2)
        child.say_stopped()
        assert await next_frame(process) == Stopped(2)
        child.say_exiting(3)
        assert await next_frame(process) == Exiting(2, 3)
        child.send_raw_control(b"nonsense")
        assert await process.control.receive(1) == [b"nonsense"]
        await trio.sleep(5)
        child.heartbeat()
        assert process.last_heartbeat() == trio.current_time()
        child.write_stderr("oh")
        assert process.stderr_tail() == "oh\n"
        child.exit(3)
        assert await process.wait() == ExitStatus(code=3)
        assert repr(child) == "<ScriptedChild ended child p1>"


async def test_it_hears_what_the_host_says() -> None:
    child = ScriptedChild()
    async with launched(MemoryLauncher({"child": child})) as process, trio.open_nursery() as nursery:
        heard: list[object] = []

        async def stop_requested() -> None:
            heard.append(await child.stop_requested())

        nursery.start_soon(stop_requested)
        nursery.start_soon(stop_requested)
        await child.started()
        assert process.messages.send_nowait(b'"hello"')
        assert await child.receive() == "hello"
        assert process.control.send_nowait(encode_stop("enough"))
        assert await child.stop_requested() == "enough"
        await wait_all_tasks_blocked()
        assert heard == ["enough", "enough"]
        assert child.stop_requests == 1


async def test_one_child_plays_one_launch_and_a_list_plays_several() -> None:
    first, second = ScriptedChild(), ScriptedChild()
    launcher = MemoryLauncher({"child": [first, second]})
    async with launched(launcher), launched(launcher):
        assert (first.is_alive, second.is_alive) == (True, True)
    with pytest.raises(OSError, match="all of which have been launched"):
        async with launched(launcher):
            raise AssertionError("entered")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda child: child.exit(), ExitStatus(code=0)),
        (lambda child: child.kill_by(signal.SIGABRT), ExitStatus(signal=signal.SIGABRT)),
        (lambda child: child.vanish(), ExitStatus()),
    ],
    ids=["exit", "signal", "unknown"],
)
async def test_it_ends_as_it_is_told(end: object, status: ExitStatus) -> None:
    child = ScriptedChild()
    async with launched(MemoryLauncher({"child": child})) as process:
        child.send("last")
        assert callable(end)
        end(child)
        assert process.has_exited()
        assert await process.wait() == status
        assert await process.messages.receive(1) == [b'"last"']
        with pytest.raises(trio.EndOfChannel):
            await process.messages.receive(1)
        process.kill()
        assert not child.was_killed
        assert await process.wait() == status


async def test_a_kill_ends_it_at_once_unless_it_resists(autojump_clock: MockClock) -> None:
    tame, tough = ScriptedChild(), ScriptedChild()
    launcher = MemoryLauncher({"child": [tame, tough]})
    async with launched(launcher) as process:
        process.kill()
        await tame.kill_requested()
        assert await process.wait() == ExitStatus(signal=signal.SIGKILL)
    before = trio.current_time()
    async with launched(launcher) as process:
        tough.resist_kill()
        process.kill()
        await tough.kill_requested()
        assert not process.has_exited()
    assert trio.current_time() - before == 1.5, "the block waits for the abandonment time, and then goes on"
    assert tough.is_alive
    tough.die()
    assert await process.wait() == ExitStatus(signal=signal.SIGKILL)


async def test_sends_wait_for_the_host_to_read(autojump_clock: MockClock) -> None:
    child = ScriptedChild()
    async with launched(MemoryLauncher({"child": child})) as process, trio.open_nursery() as nursery:
        with pytest.raises(trio.WouldBlock):
            for number in range(100):
                child.send(number)
        assert child.messages_sent == 16
        nursery.start_soon(child.send_all, range(16, 40))
        got: list[bytes] = []
        while len(got) < 40:
            got += await process.messages.receive(3)
        assert got == [b"%d" % number for number in range(40)]
        await wait_all_tasks_blocked()
        assert child.messages_sent == 40


async def test_lanes_can_be_closed_while_it_lives() -> None:
    child = ScriptedChild()
    async with launched(MemoryLauncher({"child": child})) as process:
        child.close_messages()
        child.close_control()
        for lane in (process.control, process.messages):
            with pytest.raises(trio.EndOfChannel):
                await lane.receive(1)
        assert not process.has_exited()


async def test_driving_it_wrongly_says_what_is_wrong() -> None:
    child = ScriptedChild()
    with pytest.raises(AssertionError, match="has not been launched"):
        child.ready()
    with pytest.raises(AssertionError, match="has not read its first frame"):
        _ = child.facts
    async with launched(MemoryLauncher({"child": child})) as process:
        child.hang()
        assert repr(child) == "<ScriptedChild hanging child p1>"
        with pytest.raises(AssertionError, match="hangs, as the test has asked it to"):
            child.heartbeat()
        process.kill()
        with pytest.raises(
            AssertionError, match=r"<ScriptedProcess killed by SIGKILL, sent by its host child p1> has ended"
        ):
            child.ready()


async def test_a_wait_for_a_stop_that_cannot_come_any_more_fails() -> None:
    child = ScriptedChild()
    async with launched(MemoryLauncher({"child": child})) as process:
        await child.started()
        process.control.close()
        with pytest.raises(AssertionError, match="the host had not asked for a stop"):
            await child.stop_requested()
    with pytest.raises(AssertionError, match="has ended"):
        child.ready()
