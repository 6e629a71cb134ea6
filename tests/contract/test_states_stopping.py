"""The rows of the contract's state table that begin in `stopping`, and those that begin in any live or ended state."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import ProcessHandle, ProcessState, StartupFailedError, Worker
from spindle_trio.testing import MemoryLauncher, ScriptedChild

WEDGED = """
    async def run(process):
        process.ready()
        await trio.sleep_forever()
"""

STUBBORN = """
    async def run(process):
        process.on_stop(lambda notice: process.send_nowait("was told"))
        process.ready()
        await trio.sleep_forever()
"""


def told_then(statement: str) -> str:
    """An entry that is told of a stop, and then does this."""
    return f"""
        async def run(process):
            asked = trio.Event()
            process.on_stop(lambda notice: asked.set())
            process.ready()
            await asked.wait()
            {statement}
            await trio.sleep_forever()
    """


# the child's own word


async def test_the_childs_own_word_wins_over_a_plain_stop(world, world_clock: MockClock | None) -> None:
    cases = {
        "process.complete({'n': 1})": ("completed", {"n": 1}, ""),
        "return {'n': 1}": ("completed", {"n": 1}, ""),
        "process.fail('no disk')": ("failed", None, "no disk"),
        "raise OSError('no disk')": ("failed", None, "OSError: no disk"),
        "sys.exit(7)": ("stopped", None, ""),
    }
    entries = {
        statement: world.entry(told_then(statement), f"entry{number}.py") for number, statement in enumerate(cases)
    }
    async with world.worker() as worker:

        async def stop_one(statement: str) -> None:
            handle = await worker.backend_processes.spawn(entries[statement])
            await handle.stop("enough")
            state, result, error = cases[statement]
            assert (handle.info.state, handle.info.exit_reason, handle.result) == (state, state, result)
            assert (handle.info.error or "").partition("\n")[0] == error
            assert world.states(handle.process_id) == ["starting", "running", "stopping", state]
            assert [event.result for event in world.events if event.process_id == handle.process_id][-1] == result

        async with trio.open_nursery() as nursery:
            for statement in cases:
                nursery.start_soon(stop_one, statement)


async def test_the_cancellation_that_a_stop_causes_is_no_error(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            try:
                await trio.sleep_forever()
            finally:
                process.send_nowait("cleaned up")
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        asked_at = trio.current_time()
        await handle.stop()
        world.assert_took(asked_at, 0)
        assert (handle.info.exit_reason, handle.info.error) == ("stopped", None)
        assert world.payloads() == ["cleaned up"]
        assert world.states() == ["starting", "running", "stopping", "stopped"]


async def test_an_error_in_the_clean_up_of_a_stopped_entry_is_the_entrys_own_word(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("no disk")
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
        assert (handle.info.state, handle.info.exit_reason) == ("failed", "failed")
        assert handle.info.error.startswith("OSError: no disk")


@pytest.mark.parametrize("code", [0, 7])
async def test_an_exit_while_stopping_is_stopped(real_world, code: int) -> None:
    """On real processes: a coroutine cannot exit without a word. In memory see the scripted child below."""
    entry = real_world.entry(told_then(f"os._exit({code})"))
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.stop()
        assert (handle.info.state, handle.info.exit_reason) == ("stopped", "stopped")


@pytest.mark.parametrize("end", [lambda child: child.exit(7), lambda child: child.say_stopped()])
async def test_an_exit_or_the_runtimes_stopped_is_stopped_in_memory(
    virtual_world, autojump_clock: MockClock, end
) -> None:
    """In memory, by hand. A child that says `stopped` and lives on has the rest of the grace period for that."""
    child = ScriptedChild()
    async with scripted(virtual_world, child, grace_period=5) as handle, trio.open_nursery() as nursery:
        asked_at = trio.current_time()
        nursery.start_soon(handle.stop)
        await child.stop_requested()
        end(child)
        info = await handle.wait_ended()
        assert (info.state, info.exit_reason, info.error) == ("stopped", "stopped", None)
        assert trio.current_time() - asked_at == (5 if child.was_killed else 0)


# the grace period


async def test_after_the_grace_period_it_is_killed_and_the_error_says_so(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(STUBBORN)
    grace = world.seconds(5, real=0.4)
    async with world.worker(grace_period=grace) as worker:
        handle = await worker.backend_processes.spawn(entry)
        asked_at = trio.current_time()
        await handle.stop()
        world.assert_took(asked_at, grace)
        assert (handle.info.state, handle.info.exit_reason) == ("stopped", "stopped")
        assert handle.info.error == f"did not end within {grace:g} s of the stop, and was killed"
        assert world.events[-1].error == handle.info.error


async def test_two_stops_are_one_stop_with_one_grace_period(world, world_clock: MockClock | None) -> None:
    entry = world.entry(STUBBORN)
    async with world.worker(grace_period=0.6) as worker:
        handle = await worker.backend_processes.spawn(entry)
        asked_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.stop, "first")
            await world.wait_payload("was told")
            await trio.sleep(0.3)
            await handle.stop("second")
            world.assert_took(asked_at, 0.6)
        assert world.payloads() == ["was told"]
        assert world.states() == ["starting", "running", "stopping", "stopped"]


async def test_a_host_sends_one_stop_frame_whoever_asks(virtual_world, autojump_clock: MockClock) -> None:
    """In memory: a scripted child counts the frames, which no runtime shows to its entry."""
    child = ScriptedChild()
    async with scripted(virtual_world, child, grace_period=5) as handle, trio.open_nursery() as nursery:
        for reason in ("first", "second"):
            nursery.start_soon(handle.stop, reason)
        assert await child.stop_requested() in {"first", "second"}
        with trio.move_on_after(1):
            await handle.stop("third")
        await trio.testing.wait_all_tasks_blocked()
        assert child.stop_requests == 1


async def test_a_cancelled_stop_withdraws_the_waiting_and_not_the_request(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry(STUBBORN)
    async with world.worker(grace_period=0.4) as worker:
        handle = await worker.backend_processes.spawn(entry)
        asked_at = trio.current_time()
        with trio.move_on_after(0.1) as scope:
            await handle.stop()
        assert scope.cancelled_caught
        assert handle.state is ProcessState.STOPPING
        await handle.wait_ended()
        world.assert_took(asked_at, 0.4)


async def test_ready_and_heartbeats_while_stopping_change_nothing(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            asked = trio.Event()
            process.on_stop(lambda notice: asked.set())
            await process.send("begun")
            await asked.wait()
            process.ready()
            process.heartbeat()
            await process.send("has said ready")
            await trio.sleep_forever()
    """)
    async with world.worker(grace_period=0.4) as worker, trio.open_nursery() as nursery:
        world.spawn_soon(nursery, worker, entry, heartbeat_timeout=0.1)
        await world.wait_payload("begun")
        asked_at = trio.current_time()
        await worker.backend_processes.stop(world.events[0].process_id)
        world.assert_took(asked_at, 0.4)
        assert "has said ready" in world.payloads()
        assert world.states() == ["starting", "stopping", "stopped"]


# the host's reasons


ANY_END = ["process.complete(1)", "process.fail('no disk')", "sys.exit(7)", ""]
"""What a child says about its end, or that it says nothing and is killed: the host's reason wins over all of it."""


async def test_a_replacement_while_stopping_takes_over_and_does_not_extend_the_grace_period(
    world, world_clock: MockClock | None
) -> None:
    entries = [
        world.entry(told_then(f"await trio.sleep(0.3); {statement}"), f"entry{number}.py")
        for number, statement in enumerate(ANY_END)
    ]
    other = world.entry(WEDGED, "other.py")
    async with world.worker(grace_period=0.6) as worker:
        processes = worker.backend_processes

        async def replace(handle: ProcessHandle) -> None:
            await processes.spawn(other, kind=handle.kind, key="one", replace_existing=True)

        handles = [await processes.spawn(entry, kind=entry, key="one") for entry in entries]
        asked_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(handle.stop, "enough")
            await world.wait_state("stopping", len(handles))
            await trio.sleep(0.15)
            for handle in handles:
                nursery.start_soon(replace, handle)
        world.assert_took(asked_at, 0.6)
        for handle, statement in zip(handles, ANY_END, strict=True):
            info = handle.info
            assert (info.state, info.exit_reason, handle.result) == ("stopped", "replaced", None), statement
            assert world.states(handle.process_id) == ["starting", "running", "stopping", "stopped"]
            if world.is_virtual:
                stopping_at = next(event.at for event in world.events if event.state == "stopping")
                assert (info.ended_at - stopping_at).total_seconds() == (0.3 if statement else 0.6)


async def test_an_unload_while_stopping_takes_over_and_does_not_extend_the_grace_period(
    world, world_clock: MockClock | None
) -> None:
    entries = [
        world.entry(told_then(f"await trio.sleep(0.3); {statement}"), f"entry{number}.py")
        for number, statement in enumerate(ANY_END)
    ]
    async with trio.open_nursery() as nursery:
        async with world.worker(grace_period=0.6) as worker:
            handles = [await worker.backend_processes.spawn(entry) for entry in entries]
            asked_at = trio.current_time()
            for handle in handles:
                nursery.start_soon(handle.stop, "enough")
            await world.wait_state("stopping", len(handles))
            await trio.sleep(0.15)
        world.assert_took(asked_at, 0.6)
    assert world.reasons() == [("stopped", "backend_unloaded")] * len(ANY_END)
    assert {event.result for event in world.events} == {None}


async def test_the_hosts_first_reason_stays(world, world_clock: MockClock | None) -> None:
    """Replaced, and then unloaded while it still stops: it ends as replaced, and the replacement never begins."""
    entry = world.entry(STUBBORN)
    async with trio.open_nursery() as nursery:
        async with world.worker(grace_period=0.5) as worker:
            handle = await worker.backend_processes.spawn(entry, key="one")
            asked_at = trio.current_time()
            pending = world.spawn_soon(nursery, worker, entry, key="one", replace_existing=True)
            await world.wait_state("stopping")
            await trio.sleep(0.2)
        world.assert_took(asked_at, 0.5)
        await pending.is_over.wait()
    assert isinstance(pending.error, trio.ClosedResourceError)
    assert world.reasons() == [("stopped", "replaced")]
    assert handle.info.exit_reason == "replaced"
    assert world.states() == ["starting", "running", "stopping", "stopped"]


# it has said its last word, and does not exit


@pytest.mark.parametrize(
    "source",
    [
        """
        import threading

        def run(process):
            process.ready()
            threading.Thread(target=threading.Event().wait).start()
            return {"n": 1}
        """,
        """
        import threading

        def run(process):
            process.ready()
            try:
                process.complete({"n": 1})
            finally:
                threading.Event().wait()
        """,
        """
        async def run(process):
            process.ready()
            try:
                process.complete({"n": 1})
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()
        """,
    ],
    ids=["a thread that goes on", "a finally that hangs", "a shield that hangs"],
)
async def test_what_has_completed_and_does_not_exit_is_killed_after_the_grace_period(real_world, source: str) -> None:
    """On real processes: what keeps them alive does not exist in memory, where the next test plays it by hand."""
    entry = real_world.entry(source)
    async with real_world.worker(grace_period=0.4) as worker:
        handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
        before = trio.current_time()
        info = await handle.wait_ended()
        real_world.assert_took(before, 0.4)
        assert (info.state, info.exit_reason) == ("completed", "completed")
        assert handle.result == {"n": 1}
        assert real_world.states() == ["starting", "running", "completed"]


@pytest.mark.parametrize(
    ("say", "state"), [(lambda child: child.complete(5), "completed"), (lambda child: child.fail("no disk"), "failed")]
)
@pytest.mark.parametrize("asked_before", [False, True])
async def test_its_last_word_stands_when_it_is_killed_for_not_exiting(
    virtual_world, autojump_clock: MockClock, say, state: str, asked_before: bool
) -> None:
    """In memory, by hand. The watchdog is off, and a stop before or after does not make the grace period longer."""
    child = ScriptedChild()
    async with (
        scripted(virtual_world, child, grace_period=5, heartbeat_timeout=2) as handle,
        trio.open_nursery() as nursery,
    ):
        asked_at = trio.current_time()
        if asked_before:
            nursery.start_soon(handle.stop)
            await child.stop_requested()
        await trio.sleep(1)
        say(child)
        child.complete("a second last word")
        child.fail("a third one")
        await trio.sleep(1)
        nursery.start_soon(handle.stop)
        info = await handle.wait_ended()
        assert child.was_killed
        assert trio.current_time() - asked_at == (5 if asked_before else 6)
        assert (info.state, info.exit_reason) == (state, state)
        assert handle.result == (5 if state == "completed" else None)


# breaking the protocol

BROKEN = {
    "control": [
        "nonsense",
        "[]",
        "NaN",
        "",
        '{"type": "surprise"}',
        '{"type": "complete", "messages": "many"}',
        '{"type": "complete", "result": "\\ud800", "messages": 0}',
        '{"type": "stopped", "messages": 0}',
    ],
    "messages": ["nonsense", "NaN", "", '"\\ud800"', "[" * 66 + "]" * 66, "1" * 100],
}

BREAKS_WHEN_TOLD = """
    async def run(process):
        process.on_stop(lambda notice: None)
        process.ready()
        async for body in process.messages():
            process._controls._{lane}.send_nowait(body.encode())
"""


@pytest.mark.parametrize("lane", ["control", "messages"])
async def test_a_broken_frame_fails_the_process_and_disturbs_nobody_else(
    world, world_clock: MockClock | None, lane: str
) -> None:
    entry, other = world.entry(BREAKS_WHEN_TOLD.format(lane=lane)), world.entry(WEDGED, "other.py")
    async with world.worker(grace_period=20) as worker:
        bystander = await worker.backend_processes.spawn(other)

        async def break_one(body: str) -> None:
            handle = await worker.backend_processes.spawn(entry)
            before = trio.current_time()
            await handle.send(body)
            info = await handle.wait_ended()
            world.assert_took(before, 0)
            assert (info.state, info.exit_reason) == ("failed", "failed"), body
            assert info.error.startswith("broke the protocol: "), body
            assert world.states(handle.process_id) == ["starting", "running", "failed"]

        async with trio.open_nursery() as nursery:
            for body in BROKEN[lane]:
                nursery.start_soon(break_one, body)
        assert bystander.state is ProcessState.RUNNING
        await bystander.stop()


@pytest.mark.parametrize("lane", ["control", "messages"])
async def test_a_broken_frame_while_stopping_is_stopped(world, world_clock: MockClock | None, lane: str) -> None:
    entry = world.entry(told_then(f"process._controls._{lane}.send_nowait(b'nonsense')"))
    async with world.worker(grace_period=20) as worker:
        handle = await worker.backend_processes.spawn(entry)
        before = trio.current_time()
        await handle.stop()
        world.assert_took(before, 0)
        assert (handle.info.state, handle.info.exit_reason) == ("stopped", "stopped")
        assert handle.info.error.startswith("broke the protocol: ")


@pytest.mark.parametrize("lane", ["control", "messages"])
async def test_a_broken_frame_before_ready_fails_the_start(world, world_clock: MockClock | None, lane: str) -> None:
    entry = world.entry(f"""
        async def run(process):
            process._controls._{lane}.send_nowait(b"nonsense")
            await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        with pytest.raises(StartupFailedError, match="broke the protocol"):
            await worker.backend_processes.spawn(entry)
        assert world.reasons() == [("failed", "failed")]


async def test_what_was_said_before_a_broken_message_is_heard_before_it(
    world, world_clock: MockClock | None
) -> None:
    """The lanes are two, and the host may find the message first."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            process._controls._messages.send_nowait(b"nonsense")
            await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        for _ in range(10 if world.is_virtual else 3):
            world.events.clear()
            handle = await worker.backend_processes.spawn(entry)
            await handle.wait_ended()
            assert world.states() == ["starting", "running", "failed"]


@pytest.mark.parametrize("lane", ["control", "messages"])
@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_a_header_of_four_gigabytes_fails_the_process(real_world, lane: str, kind: str) -> None:
    """On real processes: in memory frames have no headers."""
    if kind == "async":
        entry = real_world.entry(f"""
            async def run(process):
                process.ready()
                os.write(process._controls._{lane}._socket.fileno(), b"\\xff" * 4 + b"x" * 1000)
                await trio.sleep_forever()
        """)
    else:
        entry = real_world.entry(f"""
            def run(process):
                process.ready()
                os.write(process._runtime._{lane}.fd, b"\\xff" * 4 + b"x" * 1000)
                signal.pause()
        """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        info = await handle.wait_ended()
        assert (info.state, info.exit_reason) == ("failed", "failed")
        assert info.error.startswith("broke the protocol: ")


@pytest.mark.parametrize("is_asked_before", [False, True])
async def test_who_closes_the_control_lane_and_lives_on_is_killed(real_world, is_asked_before: bool) -> None:
    """On real processes, half a second later; in memory at once, see below. A blocking child's runtime does not read."""
    entry = real_world.entry("""
        def run(process):
            process.on_stop(lambda notice: close(process))
            process.ready()
            if process.receive() == "close":
                close(process)

        def close(process):
            os.close(process._runtime._control.fd)
            signal.pause()
    """)
    async with real_world.worker(grace_period=20) as worker:
        handle = await worker.backend_processes.spawn(entry)
        before = trio.current_time()
        if is_asked_before:
            await handle.stop()
        else:
            await handle.send("close")
        info = await handle.wait_ended()
        real_world.assert_took(before, 0.5)
        state = "stopped" if is_asked_before else "failed"
        assert (info.state, info.exit_reason) == (state, state)
        assert info.error == "closed its control lane and lived on"


@pytest.mark.parametrize("is_asked_before", [False, True])
async def test_who_closes_the_control_lane_and_lives_on_is_killed_at_once_in_memory(
    virtual_world, autojump_clock: MockClock, is_asked_before: bool
) -> None:
    child = ScriptedChild()
    async with scripted(virtual_world, child, grace_period=20) as handle, trio.open_nursery() as nursery:
        before = trio.current_time()
        if is_asked_before:
            nursery.start_soon(handle.stop)
            await child.stop_requested()
        child.close_control()
        info = await handle.wait_ended()
        assert trio.current_time() == before
        assert child.was_killed
        state = "stopped" if is_asked_before else "failed"
        assert (info.state, info.exit_reason) == (state, state)
        assert info.error == "closed its control lane and lived on"


# what was sent before an exit


@pytest.mark.parametrize(
    ("statement", "states"),
    [
        ("process.ready(); os._exit(3)", ["starting", "running", "failed"]),
        ("process.ready(); process.send_nowait(1); os._exit(0)", ["starting", "running", "failed"]),
    ],
)
async def test_an_exit_first_takes_in_what_was_sent_before_it(real_world, statement: str, states: list[str]) -> None:
    """On real processes; in memory by hand, below. So `spawn` returns a handle of one that was ready and is gone."""
    entry = real_world.entry(f"""
        async def run(process):
            {statement}
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.wait_ended()
        assert real_world.states() == states
        assert real_world.payloads() == ([1] if "send" in statement else [])


async def test_an_exit_first_takes_in_what_was_sent_before_it_in_memory(
    virtual_world, autojump_clock: MockClock
) -> None:
    child = ScriptedChild()
    async with (
        virtual_world.worker(launcher=MemoryLauncher({"child": child})) as worker,
        trio.open_nursery() as nursery,
    ):
        pending = virtual_world.spawn_soon(nursery, worker, "child")
        await child.started()
        child.ready()
        child.send("last words")
        child.complete(5)
        child.exit(0)
        await pending.is_over.wait()
        await pending.handle.wait_ended()
        assert virtual_world.states() == ["starting", "running", "completed"]
        assert virtual_world.payloads() == ["last words"]
        assert pending.handle.result == 5


# any terminal state


@pytest.mark.parametrize("statement", ["return 5", "raise OSError('no disk')"])
async def test_after_the_end_nothing_changes(world, world_clock: MockClock | None, statement: str) -> None:
    entry = world.entry(f"""
        async def run(process):
            process.ready()
            {statement}
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        info = await handle.wait_ended()
        events = list(world.events)
        await handle.stop("too late")
        await worker.backend_processes.stop(handle.process_id)
        world.opened.kill()
        with pytest.raises(trio.BrokenResourceError):
            await handle.send("too late")
        assert await handle.refresh() is None
        assert handle.info == info
        assert world.events == events
    assert (handle.info, world.events) == (info, events)


class scripted:  # noqa: N801  # reads as a block
    """A worker with one scripted child that is ready."""

    def __init__(self, world, child: ScriptedChild, *, heartbeat_timeout: float = 1_000, **options) -> None:
        self._world, self._child, self._heartbeat_timeout = world, child, heartbeat_timeout
        self._block = world.worker(launcher=MemoryLauncher({"child": child}), **options)

    async def __aenter__(self) -> ProcessHandle:
        worker: Worker = await self._block.__aenter__()
        async with trio.open_nursery() as nursery:
            pending = self._world.spawn_soon(nursery, worker, "child", heartbeat_timeout=self._heartbeat_timeout)
            await self._child.started()
            self._child.ready()
        return pending.handle

    async def __aexit__(self, *error) -> bool | None:
        return await self._block.__aexit__(*error)
