"""`MemoryLauncher` and its lanes at the seam, as a host meets them."""

from __future__ import annotations

import functools
import json
import math
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

import spindle_trio as spindle
from spindle_trio import OMITTED, EntryError, Limits, PeerProtocolError
from spindle_trio._protocol._control_frames import encode_init, encode_stop
from spindle_trio.abc import ExitStatus, LaunchedProcess, Launcher, LaunchOrder
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLane, MemoryLauncher, ScriptedChild, memory_lane_pair

ROOT = Path("/somewhere")
LIMITS = Limits()


def an_order(launcher: MemoryLauncher, entry: str, limits: Limits = LIMITS) -> LaunchOrder:
    return LaunchOrder("p1", launcher.resolve(entry, ROOT), ROOT, {}, limits)


def say_init(process: LaunchedProcess, payload: object = OMITTED) -> None:
    assert process.control.send_nowait(
        encode_init(
            process_id="p1",
            entry="entry",
            kind="entry",
            key=None,
            user_id="ada",
            payload=payload,
            metadata=None,
            heartbeat_timeout=15,
            limits=LIMITS,
        )
    )


async def frames_until_end(process: LaunchedProcess) -> list[dict[str, object]]:
    frames: list[dict[str, object]] = []
    while True:
        try:
            frames += [json.loads(body) for body in await process.control.receive(10)]
        except trio.EndOfChannel:
            return frames


async def idle(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep_forever()


# Entries.


async def test_entries_are_async_functions() -> None:
    def blocking(process: ProcessContext) -> None: ...

    async def generating(process: ProcessContext) -> AsyncGenerator[None]:  # noqa: ASYNC900  # refused, never run
        yield

    for wrong in (blocking, generating, 3, [ScriptedChild(), idle]):
        with pytest.raises(TypeError, match="the entry 'wrong'"):
            MemoryLauncher({"right": idle, "wrong": wrong})  # type: ignore[dict-item]


async def test_entries_may_be_methods_partials_and_objects() -> None:
    class Entry:
        async def run(self, process: ProcessContext) -> None: ...

        async def __call__(self, process: ProcessContext) -> None: ...

    async def with_option(option: int, process: ProcessContext) -> int:
        return option

    launcher = MemoryLauncher(
        {
            "method": Entry().run,
            "object": Entry(),
            "partial": functools.partial(with_option, 3),
            "child": ScriptedChild(),
        }
    )
    async with launcher.launch(an_order(launcher, "partial")) as process:
        say_init(process)
        assert await frames_until_end(process) == [{"type": "complete", "result": 3, "messages": 0}]


async def test_resolve_accepts_what_there_is_and_says_what_that_is() -> None:
    launcher = MemoryLauncher({"b": idle, "dist/./a.py": idle})
    assert launcher.resolve("dist//a.py", ROOT).entry == "dist/a.py"
    assert launcher.resolve("b", ROOT).path is None
    with pytest.raises(EntryError, match=r"no entry 'c' .* it has: 'b', 'dist/a.py'"):
        launcher.resolve("c", ROOT)
    with pytest.raises(EntryError, match=r"it has: none \(with the fixtures, override `spindle_entries`\)"):
        MemoryLauncher({}).resolve("c", ROOT)


@pytest.mark.parametrize("entry", ["", ".", "/b", "../b", "x/../b", "C:/b", "\\b"])
async def test_resolve_refuses_paths_that_a_launcher_of_files_would_refuse(entry: str) -> None:
    with pytest.raises(EntryError):
        MemoryLauncher({"b": idle}).resolve(entry, ROOT)


# Life and death of an entry.


async def test_a_launched_entry_hears_its_first_frame_and_exits_by_itself(autojump_clock: MockClock) -> None:
    async def echo(process: ProcessContext) -> object:
        process.ready()
        return process.payload

    launcher = MemoryLauncher({"echo": echo})
    async with launcher.launch(an_order(launcher, "echo")) as process:
        assert process.pid is None
        assert not process.has_exited()
        assert launcher.live_processes == 1
        payload = {"list": [1, 2]}
        say_init(process, payload)
        with assert_checkpoints():
            assert await process.wait() == ExitStatus(code=0)
        assert await process.wait() == ExitStatus(code=0)
        assert process.has_exited()
        assert await frames_until_end(process) == [
            {"type": "ready", "protocol": 2},
            {"type": "complete", "result": payload, "messages": 0},
        ]
    assert launcher.live_processes == 0


async def test_the_end_is_known_before_the_lanes_are_seen_to_close(autojump_clock: MockClock) -> None:
    """Otherwise a host would take every end for a process that closed its control lane and lives on."""

    async def short(process: ProcessContext) -> None: ...

    launcher = MemoryLauncher({"short": short})
    async with launcher.launch(an_order(launcher, "short")) as process:
        say_init(process)
        await frames_until_end(process)
        assert process.has_exited()


async def test_exit_codes_are_the_entrys(autojump_clock: MockClock) -> None:
    async def leave(process: ProcessContext) -> None:
        raise SystemExit(process.payload)

    launcher = MemoryLauncher({"leave": leave})
    for code, seen in ((3, 3), (259, 3), ("why", 1)):
        async with launcher.launch(an_order(launcher, "leave")) as process:
            say_init(process, code)
            assert await process.wait() == ExitStatus(code=seen)
            assert process.stderr_tail() == ("why\n" if code == "why" else "")


async def test_heartbeats_are_numbers_on_trios_clock(autojump_clock: MockClock) -> None:
    async def beating(process: ProcessContext) -> None:
        await trio.sleep(5)
        process.ready()
        await trio.sleep(5)
        process.heartbeat()
        await trio.sleep(5)

    launcher = MemoryLauncher({"beating": beating})
    async with launcher.launch(an_order(launcher, "beating")) as process:
        before = trio.current_time()
        say_init(process)
        await trio.sleep(1)
        assert process.last_heartbeat() == -math.inf
        await trio.sleep(5)
        assert process.last_heartbeat() - before == 5
        await process.wait()
        assert process.last_heartbeat() - before == 10


async def test_a_kill_is_immediate_idempotent_and_lets_nothing_more_out(autojump_clock: MockClock) -> None:
    async def talkative(process: ProcessContext) -> None:
        process.ready()
        try:
            await trio.sleep_forever()
        finally:
            process.send_nowait("last words")
            process.heartbeat()
            process.complete("no, wait")

    launcher = MemoryLauncher({"talkative": talkative})
    async with launcher.launch(an_order(launcher, "talkative")) as process:
        say_init(process)
        await process.control.receive(1)
        process.kill()
        process.kill()
        assert await process.wait() == ExitStatus(signal=signal.SIGKILL)
        process.kill()
        assert await process.wait() == ExitStatus(signal=signal.SIGKILL)
        assert await frames_until_end(process) == []
        with pytest.raises(trio.EndOfChannel):
            process.messages.receive_nowait(1)


async def test_a_kill_before_the_first_frame(autojump_clock: MockClock) -> None:
    launcher = MemoryLauncher({"idle": idle})
    async with launcher.launch(an_order(launcher, "idle")) as process:
        process.kill()
        assert await process.wait() == ExitStatus(signal=signal.SIGKILL)


async def test_a_host_that_closes_its_ends_ends_the_entry(autojump_clock: MockClock) -> None:
    launcher = MemoryLauncher({"idle": idle})
    for is_begun in (False, True):
        async with launcher.launch(an_order(launcher, "idle")) as process:
            if is_begun:
                say_init(process)
            await wait_all_tasks_blocked()
            process.control.close()
            await process.wait()


async def test_leaving_the_block_kills_and_leaves_errors_as_they_are(autojump_clock: MockClock) -> None:
    steps: list[str] = []

    async def tidy(process: ProcessContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                steps.append("ended")

    launcher = MemoryLauncher({"tidy": tidy})
    with pytest.raises(KeyError):
        async with launcher.launch(an_order(launcher, "tidy")) as process:
            say_init(process)
            await wait_all_tasks_blocked()
            raise KeyError
    assert steps == ["ended"]
    with trio.move_on_after(1) as scope:
        async with launcher.launch(an_order(launcher, "tidy")) as process:
            say_init(process)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert steps == ["ended", "ended"]
    with pytest.raises(trio.ClosedResourceError):
        process.control.receive_nowait(1)


async def test_a_process_feels_no_cancellation_of_its_hosts_but_the_kill(autojump_clock: MockClock) -> None:
    """Else it could say something in the moment between the cancellation and its kill."""

    async def attentive(process: ProcessContext) -> None:
        process.ready()
        try:
            await trio.sleep_forever()
        finally:
            process.complete("cancelled")

    launcher = MemoryLauncher({"attentive": attentive})
    frames: list[dict[str, object]] = []
    with trio.CancelScope() as scope:
        async with launcher.launch(an_order(launcher, "attentive")) as process:
            say_init(process)
            await wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
                assert not process.has_exited()
                process.kill()
                frames += await frames_until_end(process)
    assert frames == [{"type": "ready", "protocol": 2}]


async def test_entering_when_cancelled_leaves_nothing() -> None:
    launcher = MemoryLauncher({"idle": idle})
    with trio.CancelScope() as scope:
        scope.cancel()
        async with launcher.launch(an_order(launcher, "idle")):
            raise AssertionError("entered")
    assert launcher.live_processes == 0


@pytest.mark.parametrize("seconds", [10, math.inf])
async def test_an_entry_that_shields_itself_against_its_kill_fails_the_test(
    autojump_clock: MockClock, seconds: float
) -> None:
    """It ends even if it would have waited for ever: a failing test is better than a hanging one."""

    async def stubborn(process: ProcessContext) -> None:
        async def inner() -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(seconds)

        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task that has to be found
                nursery.start_soon(inner)

    launcher = MemoryLauncher({"stubborn": stubborn})
    before = trio.current_time()
    with pytest.raises(AssertionError, match=r"'stubborn' .* is shielded"):
        async with launcher.launch(an_order(launcher, "stubborn")) as process:
            say_init(process)
            await wait_all_tasks_blocked()
    assert trio.current_time() - before == 1.5
    assert "'stubborn'" in launcher.complaints[0]


async def test_an_entry_that_has_withstood_its_kill_for_a_while_fails_the_test_too(autojump_clock: MockClock) -> None:
    """The host has abandoned it, and gone on; nothing would show that no real process could do this."""

    async def slow(process: ProcessContext) -> None:
        process.ready()
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    launcher = MemoryLauncher({"slow": slow})
    with pytest.raises(ExceptionGroup) as caught:  # noqa: ASYNC401  # RaisesGroup is newer than the oldest pytest
        async with spindle.open_host(launcher) as host, host.open_worker("test", user_id="ada") as worker:
            handle = await worker.backend_processes.spawn("slow", heartbeat_timeout=5)
            info = await handle.wait_ended()
            assert info.error is not None
            assert "abandoned" in info.error
            await trio.sleep(100)
    assert caught.group_contains(AssertionError, match="is shielded")


async def test_a_keyboard_interrupt_in_an_entry_reaches_whoever_runs_the_test(autojump_clock: MockClock) -> None:
    async def interrupted(process: ProcessContext) -> None:
        raise KeyboardInterrupt

    launcher = MemoryLauncher({"interrupted": interrupted})
    with pytest.raises(KeyboardInterrupt):
        async with launcher.launch(an_order(launcher, "interrupted")) as process:
            say_init(process)
            await process.wait()


async def test_reports_are_the_tail_of_stderr(autojump_clock: MockClock) -> None:
    async def noisy(process: ProcessContext) -> None:
        def broken(payload: object) -> None:
            raise ValueError("x" * 1000)

        process.on_message(broken)
        process.on_message(lambda payload: process.complete() if payload == "end" else None)
        await trio.sleep_forever()

    launcher = MemoryLauncher({"noisy": noisy})
    async with launcher.launch(an_order(launcher, "noisy")) as process:
        say_init(process)
        await process.messages.send_pending([b"1"] * 100 + [b'"end"'])
        await process.wait()
        assert "ValueError: xxx" in process.stderr_tail()
        assert len(process.stderr_tail()) <= 64 * 1024
        assert process.output_dropped() > 0


# Lanes.


@attrs.frozen
class Lanes:
    host: MemoryLane
    child: MemoryLane


@pytest.fixture
def lanes() -> Lanes:
    return Lanes(*memory_lane_pair(10, buffer_frames=2))


async def test_a_lane_keeps_order_and_takes_no_more_than_its_buffer(lanes: Lanes) -> None:
    assert lanes.host.send_nowait(b"a")
    assert lanes.host.send_nowait(b"b")
    assert not lanes.host.send_nowait(b"c")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lanes.host.send_pending, [b"d", b"e"])
        await wait_all_tasks_blocked()
        got: list[bytes] = []
        while len(got) < 5:
            got += await lanes.child.receive(10)
    assert got == [b"a", b"b", b"c", b"d", b"e"]
    with pytest.raises(trio.WouldBlock):
        lanes.child.receive_nowait(1)


async def test_receive_returns_no_more_than_asked_for(lanes: Lanes) -> None:
    await lanes.host.send_pending([b"a", b"b"])
    assert await lanes.child.receive(1) == [b"a"]
    assert lanes.child.receive_nowait(10) == [b"b"]


async def test_what_has_arrived_can_be_taken_although_another_task_waits_for_it(lanes: Lanes) -> None:
    """A deadline that fires first takes in what has been sent (rule 7), although the reading task was woken for it."""
    got: list[bytes] = []

    async def reader() -> None:
        got.extend(await lanes.host.receive(10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        assert lanes.child.send_nowait(b"in time")
        assert lanes.host.receive_nowait(10) == [b"in time"]
        await wait_all_tasks_blocked()
        assert got == []
        assert lanes.child.send_nowait(b"next")
    assert got == [b"next"]


async def test_a_frame_too_long_breaks_the_lane_for_the_host_after_what_came_before(lanes: Lanes) -> None:
    await lanes.child.send_pending([b"good", b"x" * 11])
    assert await lanes.host.receive(10) == [b"good"]
    for _ in range(2):
        with pytest.raises(PeerProtocolError, match="11 bytes, more than 10"):
            await lanes.host.receive(10)
        with pytest.raises(PeerProtocolError):
            lanes.host.receive_nowait(10)


async def test_everything_sent_before_a_close_is_still_received(lanes: Lanes) -> None:
    await lanes.child.send_pending([b"a", b"b"])
    lanes.child.close()
    assert await lanes.host.receive(1) == [b"a"]
    assert await lanes.host.receive(1) == [b"b"]
    with pytest.raises(trio.EndOfChannel):
        await lanes.host.receive(1)
    with pytest.raises(trio.BrokenResourceError):
        lanes.host.send_nowait(b"c")
    with pytest.raises(trio.BrokenResourceError):
        await lanes.host.send_pending([b"c"])


async def test_closing_wakes_whoever_receives_on_either_end(lanes: Lanes) -> None:
    async def receives(lane: MemoryLane, error: type[Exception]) -> None:
        with pytest.raises(error):
            await lane.receive(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receives, lanes.host, trio.EndOfChannel)
        nursery.start_soon(receives, lanes.child, trio.ClosedResourceError)
        await wait_all_tasks_blocked()
        lanes.child.close()
        lanes.child.close()
    lanes.host.close()
    with pytest.raises(trio.ClosedResourceError):
        lanes.host.send_nowait(b"x")


async def test_closing_wakes_whoever_sends_on_either_end(lanes: Lanes) -> None:
    async def sends(lane: MemoryLane, error: type[Exception]) -> None:
        with pytest.raises(error):
            await lane.send_pending([b"x"] * 3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sends, lanes.host, trio.BrokenResourceError)
        nursery.start_soon(sends, lanes.child, trio.ClosedResourceError)
        await wait_all_tasks_blocked()
        lanes.child.close()


async def test_a_cancelled_receive_and_a_cancelled_send_lose_nothing(lanes: Lanes) -> None:
    with trio.move_on_after(0):
        await lanes.child.receive(1)
    await lanes.host.send_pending([b"a", b"b"])
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lanes.host.send_pending, [b"c"])
            await wait_all_tasks_blocked()
            scope.cancel()
    assert await lanes.child.receive(10) == [b"a", b"b"]
    await lanes.host.send_pending()
    assert await lanes.child.receive(10) == [b"c"]


async def test_a_stop_reaches_a_child_whose_messages_are_full_both_ways(autojump_clock: MockClock) -> None:
    async def stuck(process: ProcessContext) -> None:
        stopped = trio.Event()
        process.on_stop(lambda notice: stopped.set())

        async def flood() -> None:
            while True:
                await process.send("x" * 1000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await stopped.wait()
            process.complete("heard")

    launcher = MemoryLauncher({"stuck": stuck})
    async with launcher.launch(an_order(launcher, "stuck")) as process:
        say_init(process)
        with trio.move_on_after(1):
            await process.messages.send_pending([b"1"] * 100)
        assert process.control.send_nowait(encode_stop("now"))
        (body,) = await process.control.receive(1)
        assert json.loads(body)["result"] == "heard"


def test_a_launcher_that_knows_no_folders_refuses_them() -> None:
    with pytest.raises(EntryError, match="MemoryLauncher runs each process in its worker's root: spawn without folder"):
        Launcher.resolve_folder(MemoryLauncher({}), "data", Path("/"))


@pytest.mark.parametrize("calls", [{}, {"x": 3}, {1: len}, {"x": None}])
def test_calls_that_are_no_functions_by_name_are_refused_by_the_name_of_the_entry(calls) -> None:
    with pytest.raises(ValueError, match=r"'calls' of the entry 'tools\.py'"):
        MemoryLauncher({"tools.py": calls})
