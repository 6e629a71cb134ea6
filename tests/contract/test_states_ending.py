"""The rows of the contract's state table that begin in any live state, or after the end."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import ProcessState, StartupFailedError
from spindle_trio.testing import MemoryLauncher, ScriptedChild
from support.state import LANES, scripted, told_then

WEDGED = """
    async def run(process):
        process.ready()
        await trio.sleep_forever()
"""


# it has said its last word, and does not exit


HANGS_AFTER_ITS_LAST_WORD = {
    "a thread that goes on": """
        import threading

        def run(process):
            process.ready()
            threading.Thread(target=threading.Event().wait).start()
            return {"n": 1}
    """,
    "a finally that hangs": """
        import threading

        def run(process):
            process.ready()
            try:
                process.complete({"n": 1})
            finally:
                threading.Event().wait()
    """,
    "a shield that hangs": """
        async def run(process):
            process.ready()
            try:
                process.complete({"n": 1})
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()
    """,
}


@pytest.mark.slow
async def test_what_has_completed_and_does_not_exit_is_killed_after_the_grace_period(real_world) -> None:
    """On real processes: nothing keeps one in memory alive like that; the next test plays it by hand."""
    entries = [real_world.entry(source, f"{name}.py") for name, source in HANGS_AFTER_ITS_LAST_WORD.items()]
    async with real_world.worker(grace_period=0.4) as worker:
        for entry in entries:
            handle = await worker.backend_processes.spawn(entry, heartbeat_timeout=0.2)
            before = trio.current_time()
            info = await handle.wait_ended()
            real_world.assert_took(before, 0.4)
            assert (info.state, info.exit_reason) == ("completed", "completed"), entry
            assert handle.result == {"n": 1}
            assert real_world.states(handle.process_id) == ["starting", "running", "completed"]


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
            {lane}.send_nowait(body.encode())
"""


async def test_a_broken_frame_fails_the_process_and_disturbs_nobody_else(world, world_clock: MockClock | None) -> None:
    entries = {lane: world.entry(BREAKS_WHEN_TOLD.format(lane=LANES[lane]), f"{lane}.py") for lane in BROKEN}
    other = world.entry(WEDGED, "other.py")
    async with world.worker(grace_period=20) as worker:
        bystander = await worker.backend_processes.spawn(other)

        async def break_one(lane: str, body: str) -> None:
            handle = await worker.backend_processes.spawn(entries[lane])
            before = trio.current_time()
            await handle.send(body)
            info = await handle.wait_ended()
            world.assert_took(before, 0)
            assert (info.state, info.exit_reason) == ("failed", "failed"), body
            assert info.error.startswith("broke the protocol: "), body
            assert world.states(handle.process_id) == ["starting", "running", "failed"]

        async with trio.open_nursery() as nursery:
            for lane, bodies in BROKEN.items():
                for body in bodies:
                    nursery.start_soon(break_one, lane, body)
        assert bystander.state is ProcessState.RUNNING
        await bystander.stop()


async def test_a_broken_frame_while_stopping_is_stopped(world, world_clock: MockClock | None) -> None:
    entries = [
        world.entry(told_then(f"{where}.send_nowait(b'nonsense')"), f"{lane}.py") for lane, where in LANES.items()
    ]
    async with world.worker(grace_period=20) as worker:
        for entry in entries:
            handle = await worker.backend_processes.spawn(entry)
            before = trio.current_time()
            await handle.stop()
            world.assert_took(before, 0)
            assert (handle.info.state, handle.info.exit_reason) == ("stopped", "stopped")
            assert handle.info.error.startswith("broke the protocol: ")


async def test_a_broken_frame_before_ready_fails_the_start(world, world_clock: MockClock | None) -> None:
    entries = [
        world.entry(
            f"""
            async def run(process):
                {where}.send_nowait(b"nonsense")
                await trio.sleep_forever()
            """,
            f"{lane}.py",
        )
        for lane, where in LANES.items()
    ]
    async with world.worker() as worker:
        for entry in entries:
            with pytest.raises(StartupFailedError, match="broke the protocol"):
                await worker.backend_processes.spawn(entry)
        assert world.reasons() == [("failed", "failed")] * 2


async def test_what_was_said_before_a_broken_message_is_heard_before_it(world, world_clock: MockClock | None) -> None:
    """The lanes are two, and the host may find the message first."""
    entry = world.entry("""
        async def run(process):
            process.ready()
            process._controls._messages.send_nowait(b"nonsense")
            await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        for _ in range(10 if world.is_virtual else 2):
            world.events.clear()
            handle = await worker.backend_processes.spawn(entry)
            await handle.wait_ended()
            assert world.states() == ["starting", "running", "failed"]


async def test_a_header_of_four_gigabytes_fails_the_process(real_world) -> None:
    """On real processes: in memory frames have no headers."""
    entries = [
        real_world.entry(
            f"""
            {definition} run(process):
                process.ready()
                os.write({descriptor}, b"\\xff" * 4 + b"x" * 1000)
                {wait}
            """,
            f"{number}.py",
        )
        for number, (definition, descriptor, wait) in enumerate(
            [
                ("async def", f"{LANES['control']}._socket.fileno()", "await trio.sleep_forever()"),
                ("async def", f"{LANES['messages']}._socket.fileno()", "await trio.sleep_forever()"),
                ("def", "process._controls.lanes.control.fd", "signal.pause()"),
                ("def", "process._controls._messages.fd", "signal.pause()"),
            ]
        )
    ]
    async with real_world.worker() as worker:
        for entry in entries:
            handle = await worker.backend_processes.spawn(entry)
            info = await handle.wait_ended()
            assert (info.state, info.exit_reason) == ("failed", "failed")
            assert info.error.startswith("broke the protocol: ")


@pytest.mark.slow
async def test_who_closes_the_control_lane_and_lives_on_is_killed(real_world) -> None:
    """On real processes half a second later; in memory at once, see below. A blocking child reads by itself only."""
    entry = real_world.entry("""
        def run(process):
            process.on_stop(lambda notice: close(process))
            process.ready()
            if process.receive() == "close":
                close(process)

        def close(process):
            os.close(process._controls.lanes.control.fd)
            signal.pause()
    """)
    async with real_world.worker(grace_period=20) as worker:
        for state in ("failed", "stopped"):
            handle = await worker.backend_processes.spawn(entry)
            before = trio.current_time()
            if state == "stopped":
                await handle.stop()
            else:
                await handle.send("close")
            info = await handle.wait_ended()
            real_world.assert_took(before, 0.5)
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


@pytest.mark.parametrize("result", ["short", "longer than one look takes in" * 3_000])
async def test_what_lies_behind_a_frame_on_the_control_lane_does_not_wait_for_a_deadline(
    virtual_world, autojump_clock: MockClock, result: str
) -> None:
    """The lane tells of what is left in it while the first of it is taken in; there may be no deadline at all."""
    children = ScriptedChild(), ScriptedChild()
    launcher = MemoryLauncher({"child": children})
    async with virtual_world.worker(launcher=launcher) as worker, trio.open_nursery() as nursery:
        for child in children:
            virtual_world.spawn_soon(nursery, worker, "child", heartbeat_timeout=math.inf)
            await child.started()
        begin = trio.current_time()
        children[0].ready()
        children[0].close_control()
        children[1].ready()
        children[1].complete(result)
        children[1].say_exiting()
        await virtual_world.wait_state("failed")
        await virtual_world.wait_state("completed")
        assert trio.current_time() == begin


# what was sent before an exit


async def test_an_exit_first_takes_in_what_was_sent_before_it(real_world) -> None:
    """On real processes; in memory by hand, below. So `spawn` returns a handle of one that was ready and is gone."""
    entry = real_world.entry("""
        async def run(process):
            process.ready()
            if process.payload is not None:
                process.send_nowait(process.payload)
            os._exit(0)
    """)
    async with real_world.worker() as worker:
        for payload in (None, "last words"):
            handle = await worker.backend_processes.spawn(entry, payload=payload)
            await handle.wait_ended()
            assert real_world.states(handle.process_id) == ["starting", "running", "failed"]
        assert real_world.payloads() == ["last words"]


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


async def test_after_the_end_nothing_changes(world, world_clock: MockClock | None) -> None:
    entry = world.entry("""
        async def run(process):
            process.ready()
            return 5
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
