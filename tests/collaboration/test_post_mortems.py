"""Post-mortems, in memory: who gets them and when, and how a dump of the stacks affects times."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import spindle_trio as spindle
from spindle_trio import LifecycleEvent, Limits, PostMortem, ProcessHandle, ProcessState, StreamChannel, connect_worker
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher, ScriptedChild
from spindle_trio.testing._memory_process import MemoryProcess


async def wedged(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep_forever()


async def never_ready(process: ProcessContext) -> None:
    await trio.sleep_forever()


async def raises(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep(2)
    raise LookupError("no such\nbook")


async def fails(process: ProcessContext) -> None:
    process.ready()
    await trio.sleep(1)
    process.fail("  no disk\nno hope ")


async def obeys(process: ProcessContext) -> None:
    process.ready()
    await process.wait_stop()


async def stubborn(process: ProcessContext) -> None:
    process.on_stop(print)
    process.ready()
    await trio.sleep_forever()


ENTRIES = {entry.__name__: entry for entry in (wedged, never_ready, raises, fails, obeys, stubborn)}


@asynccontextmanager
async def a_worker(limits: Limits | None = None) -> AsyncIterator[spindle.Worker]:
    async with (
        spindle.open_host(MemoryLauncher(ENTRIES), limits=limits or Limits()) as host,
        host.open_worker("test", user_id="ada") as worker,
    ):
        yield worker


# ---- who gets them, and when


async def test_it_is_there_before_anybody_hears_of_the_end(autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        handles: list[ProcessHandle] = []
        seen: list[tuple[LifecycleEvent, PostMortem | None]] = []
        worker.backend_processes.on_lifecycle(
            lambda event: seen.append((event, handles[0].post_mortem if handles else None))
        )
        handles.append(await worker.backend_processes.spawn("wedged", heartbeat_timeout=15))
        assert handles[0].post_mortem is None
        info = await handles[0].wait_ended()
    event, post_mortem = seen[-1]
    assert post_mortem is not None
    assert post_mortem == event.post_mortem == handles[0].post_mortem
    assert event.error == str(post_mortem)
    assert info.error == post_mortem.error == "no heartbeat for 15 s"
    assert [event.post_mortem for event, _ in seen[:-1]] == [None, None]
    assert post_mortem == PostMortem(
        "no heartbeat for 15 s", exit_status="killed by SIGKILL, sent by its host", since_heartbeat=15.0
    )


async def test_an_end_that_was_asked_for_has_none(autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        stopped = await worker.backend_processes.spawn("obeys")
        await stopped.stop()
        assert (stopped.post_mortem, stopped.info.error) == (None, None)
        cancelled = await worker.backend_processes.spawn("wedged")
        await cancelled.stop()
        assert (cancelled.state, cancelled.post_mortem) == ("stopped", None)


async def test_a_stop_that_needs_a_kill_has_one(autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        handle = await worker.backend_processes.spawn("stubborn")
        await trio.sleep(1)
        await handle.stop()
    assert handle.info.error == "did not end within 5 s of the stop, and was killed"
    assert handle.post_mortem == PostMortem(
        handle.info.error, exit_status="killed by SIGKILL, sent by its host", since_heartbeat=6.0
    )


async def test_an_exception_is_one_line_and_its_traceback_a_text(autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        handle = await worker.backend_processes.spawn("raises")
        info = await handle.wait_ended()
    assert info.error is not None
    assert info.error.startswith("LookupError: no such | book (Traceback: test_post_mortems.py:")
    assert info.error.endswith(" in raises)")
    assert handle.post_mortem is not None
    assert handle.post_mortem.since_heartbeat == 2
    assert handle.post_mortem.exit_status == "exited with code 1"
    assert handle.post_mortem.traceback is not None
    assert handle.post_mortem.traceback.startswith("Traceback (most recent call last):\n")
    assert handle.post_mortem.traceback.endswith("LookupError: no such\nbook")


async def test_what_the_entry_itself_says_stays_as_it_is(autojump_clock: MockClock) -> None:
    async with a_worker() as worker:
        handle = await worker.backend_processes.spawn("fails")
        info = await handle.wait_ended()
    assert info.error == "no disk\nno hope"
    assert str(handle.post_mortem).startswith("no disk\nno hope\n  exit status: exited with code 1\n")


async def test_a_spawn_that_fails_says_all_of_it(autojump_clock: MockClock) -> None:
    async def breaks(process: ProcessContext) -> None:
        raise LookupError("no book")

    launcher = MemoryLauncher({"breaks": breaks, **ENTRIES})
    async with spindle.open_host(launcher) as host, host.open_worker("test", user_id="ada") as worker:
        with pytest.raises(spindle.StartupFailedError) as failed:
            await worker.backend_processes.spawn("breaks")
        with pytest.raises(spindle.StartupTimeoutError) as late:
            await worker.backend_processes.spawn("never_ready", startup_timeout=3)
    first, *others = str(failed.value).splitlines()
    assert "failed before it was ready: LookupError: no book (Traceback: " in first
    assert others[-1] == "    LookupError: no book"
    assert failed.value.info.error in first
    assert (
        str(late.value)
        .splitlines()[0]
        .endswith(" timed out: not ready within 3 s; call process.ready() earlier, or give it a longer startup_timeout")
    )
    assert str(late.value).splitlines()[1:] == ["  exit status: killed by SIGKILL, sent by its host"]


@pytest.mark.parametrize(("entry", "bound", "is_whole"), [("raises", 250, False), ("wedged", 1_000, True)])
async def test_where_errors_are_bounded_an_event_has_the_whole_or_one_line_alone(
    entry: str, bound: int, is_whole: bool, autojump_clock: MockClock
) -> None:
    events: list[LifecycleEvent] = []
    async with a_worker(Limits(error_bytes=bound)) as worker:
        worker.backend_processes.on_lifecycle(events.append)
        handle = await worker.backend_processes.spawn(entry)
        await handle.wait_ended()
    assert handle.post_mortem is not None
    assert events[-1].error == (str(handle.post_mortem) if is_whole else handle.post_mortem.error)


# ---- a dump of the stacks


@pytest.fixture
def dumping(monkeypatch: pytest.MonkeyPatch) -> list[MemoryProcess]:
    """Have processes in memory take a request for a dump, and note those that were asked; a test ends them."""
    asked: list[MemoryProcess] = []

    def request_dump(process: MemoryProcess) -> bool:
        asked.append(process)
        return True

    monkeypatch.setattr(MemoryProcess, "request_dump", request_dump)
    monkeypatch.setattr(MemoryProcess, "stacks", lambda process: "Thread 1" if process in asked else None)
    return asked


@asynccontextmanager
async def a_hanging_child() -> AsyncIterator[tuple[ScriptedChild, ProcessHandle]]:
    """Spawn a child that is ready and from then on does what the test says."""
    child = ScriptedChild()
    async with (
        spindle.open_host(MemoryLauncher({"scripted": child})) as host,
        host.open_worker("test", user_id="ada") as worker,
    ):
        spawned: list[ProcessHandle] = []

        async def spawn() -> None:
            spawned.append(await worker.backend_processes.spawn("scripted", heartbeat_timeout=15))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spawn)
            await child.started()
            child.ready()
        yield child, spawned[0]


async def test_a_dump_that_does_not_come_delays_the_kill_by_its_bound_and_no_more(
    autojump_clock: MockClock, dumping: list[MemoryProcess]
) -> None:
    async with a_worker() as worker:
        handle = await worker.backend_processes.spawn("wedged", heartbeat_timeout=15)
        before = trio.current_time()
        await handle.wait_ended()
        assert trio.current_time() - before == pytest.approx(15.3)
        with pytest.raises(spindle.StartupTimeoutError) as caught:
            await worker.backend_processes.spawn("never_ready", startup_timeout=3)
        assert trio.current_time() - before == pytest.approx(15.3 + 3.3)
    assert len(dumping) == 2
    assert handle.post_mortem is not None
    assert (handle.post_mortem.stacks, handle.post_mortem.since_heartbeat) == ("Thread 1", 15.0)
    assert "Thread 1" in str(caught.value)


async def test_an_exit_that_follows_the_dump_is_not_waited_for_any_longer(
    autojump_clock: MockClock, dumping: list[MemoryProcess]
) -> None:
    async with a_hanging_child() as (child, handle):
        before = trio.current_time()
        await trio.sleep(15.1)
        assert len(dumping) == 1
        child.kill_by(41)
        info = await handle.wait_ended()
        assert trio.current_time() - before == pytest.approx(15.1)
    assert info.state is ProcessState.TIMED_OUT
    assert handle.post_mortem is not None
    assert handle.post_mortem.exit_status == "killed by SIGRTMIN+7, sent by its host"


async def test_a_kill_does_not_wait_for_a_dump(autojump_clock: MockClock, dumping: list[MemoryProcess]) -> None:
    async with (
        spindle.open_host(MemoryLauncher(ENTRIES)) as host,
        host.open_worker("test", user_id="ada") as worker,
    ):
        handle = await worker.backend_processes.spawn("wedged", heartbeat_timeout=15)
        before = trio.current_time()
        await trio.sleep(15.1)
        assert len(dumping) == 1
        host.kill()
        info = await handle.wait_ended()
        assert trio.current_time() - before == pytest.approx(15.1)
    assert (info.state, info.error) == (ProcessState.TIMED_OUT, "no heartbeat for 15 s")


async def test_what_it_says_during_its_dump_changes_nothing(
    autojump_clock: MockClock, dumping: list[MemoryProcess]
) -> None:
    async with a_hanging_child() as (child, handle):
        await trio.sleep(15.1)
        child.fail("too late")
        info = await handle.wait_ended()
    assert (info.state, info.error) == (ProcessState.TIMED_OUT, "no heartbeat for 15 s")
    assert handle.post_mortem is not None
    assert handle.post_mortem.traceback is None


# ---- over a channel


@pytest.mark.parametrize("entry", ["wedged", "raises", "fails", "obeys"])
async def test_a_remote_handle_has_the_same(autojump_clock: MockClock, entry: str) -> None:
    near, far = map(StreamChannel, trio.testing.memory_stream_pair())
    here: list[LifecycleEvent] = []
    there: list[LifecycleEvent] = []
    async with spindle.open_host(MemoryLauncher(ENTRIES)) as host, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id="ada"))
        async with connect_worker(far) as worker, host.open_worker("local", user_id="ada") as local:
            local.backend_processes.on_lifecycle(here.append)
            worker.backend_processes.on_lifecycle(there.append)
            handle = await worker.backend_processes.spawn(entry)
            twin = await local.backend_processes.spawn(entry)
            if entry == "obeys":
                await handle.stop()
                await twin.stop()
            info = await handle.wait_ended()
            other = await twin.wait_ended()
    assert handle.post_mortem == twin.post_mortem == there[-1].post_mortem
    assert (handle.post_mortem is None) == (entry == "obeys")
    assert (info.error, there[-1].error) == (other.error, here[-1].error)


async def test_a_channel_too_narrow_for_a_post_mortem_still_carries_the_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = (StreamChannel(end, max_line_bytes=800) for end in trio.testing.memory_stream_pair())
    async with spindle.open_host(MemoryLauncher(ENTRIES)) as host, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(host.serve_worker, near, "remote", user_id="ada"))
        async with connect_worker(far) as worker:
            handle = await worker.backend_processes.spawn("raises")
            info = await handle.wait_ended()
    assert info.state is ProcessState.FAILED
    assert info.error is not None
    assert info.error.startswith("LookupError: no such | book (Traceback: ")
    assert handle.post_mortem is None
    assert "its post-mortem was dropped" in caplog.text
