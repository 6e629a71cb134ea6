"""`async def` and `def` entries: what returning, raising, `ready`, `complete`, `fail`, `send` and `receive` do.

What holds for both is written once, as an `async def` entry; `Flavour` makes the `def` entry of it. Only real processes
can run that one.
"""

from __future__ import annotations

import enum
import math
import re
import textwrap

import pytest
import trio
from trio.testing import MockClock

from spindle_trio import ExitReason, ProcessState, StartupFailedError
from support.contract import Gate, run_to_end, stderr_of, wait_state


class Flavour(enum.StrEnum):
    """Which kind of function an entry is."""

    ASYNC = "async"
    BLOCKING = "blocking"

    def entry(self, world, source: str, name: str = "entry.py") -> str:
        """Write an entry of this flavour, given as an `async` one, and return the name to spawn it by."""
        if self is Flavour.ASYNC:
            return world.entry(source, name)
        source = source.replace("process.messages().receive", "process.receive").replace("send_nowait(", "send(")
        source = re.sub(r"\b(async|await) ", "", textwrap.dedent(source))
        return world.blocking_entry(f"import os, signal, sys\n{source}", name)

    def pick(self, *, asynchronous: str, blocking: str) -> str:
        """Choose what the two flavours have different words for."""
        return asynchronous if self is Flavour.ASYNC else blocking


slow = pytest.mark.slow

both_flavours = pytest.mark.parametrize(
    ("flavour", "world"),
    [
        (Flavour.ASYNC, "memory"),
        pytest.param(Flavour.ASYNC, "forked", marks=slow),
        pytest.param(Flavour.ASYNC, "python", marks=slow),
        (Flavour.BLOCKING, "forked"),
        pytest.param(Flavour.BLOCKING, "python", marks=slow),
    ],
    indirect=["world"],
)

both_flavours_on_real_processes = pytest.mark.parametrize(
    ("flavour", "real_world"),
    [
        (Flavour.ASYNC, "forked"),
        pytest.param(Flavour.ASYNC, "python", marks=slow),
        (Flavour.BLOCKING, "forked"),
        pytest.param(Flavour.BLOCKING, "python", marks=slow),
    ],
    indirect=["real_world"],
)


# ---- how an entry ends


@both_flavours
async def test_it_has_the_thread_to_itself_and_what_it_returns_completes_it(
    world, flavour: Flavour, world_clock: MockClock | None
) -> None:
    """An `async` entry runs under Trio; a `def` entry on the main thread, where signal handlers may be set."""
    use = flavour.pick(
        asynchronous="""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 0)
            is_at_home = trio.lowlevel.in_trio_run()
        """,
        blocking="""
            heard = []
            signal.signal(signal.SIGUSR1, lambda *_: heard.append("signal"))
            signal.raise_signal(signal.SIGUSR1)
            is_at_home = heard == ["signal"]
        """,
    )
    entry = flavour.entry(
        world,
        f"""
        async def run(process):
            process.ready()
            {use.strip()}
            return {{"at home": is_at_home, "payload": process.payload}}
    """,
    )
    handle = await run_to_end(world, entry, payload=[1, None])
    assert handle.info.exit_reason is ExitReason.COMPLETED
    assert handle.result == {"at home": True, "payload": [1, None]}
    assert world.states() == ["starting", "running", "completed"]
    assert world.events[-1].result == handle.result


@both_flavours
async def test_what_it_raises_fails_it_with_type_message_and_traceback(
    world, flavour: Flavour, world_clock: MockClock | None
) -> None:
    entry = flavour.entry(
        world,
        """
        async def run(process):
            process.ready()
            await look_up("Ulysses")

        async def look_up(book):
            raise LookupError(f"no such book: {book}")
    """,
    )
    handle = await run_to_end(world, entry)
    assert (handle.info.state, handle.info.exit_reason) == (ProcessState.FAILED, ExitReason.FAILED)
    line = len((world.root / entry).read_text().rstrip().splitlines())
    place = f"{entry}:{line} in look_up"
    assert handle.info.error == f"LookupError: no such book: Ulysses (Traceback: {place})"
    assert handle.post_mortem.traceback.endswith("LookupError: no such book: Ulysses")
    assert "in look_up" in handle.post_mortem.traceback
    assert "_runtime" not in handle.post_mortem.traceback  # the library's own frames tell an author nothing


@both_flavours
async def test_a_returned_value_that_is_no_payload_fails_it_and_says_where(
    world, flavour: Flavour, world_clock: MockClock | None
) -> None:
    entry = flavour.entry(
        world,
        """
        async def run(process):
            process.ready()
            return {"words": [{"a", "b"}]}
    """,
    )
    info = (await run_to_end(world, entry)).info
    assert info.state is ProcessState.FAILED
    assert "result.words[0]: set is not JSON-safe" in info.error


@both_flavours
async def test_an_entry_that_ends_before_ready_makes_spawn_raise(
    world, flavour: Flavour, world_clock: MockClock | None
) -> None:
    never_ready = "it never called process.ready(); call that"
    ways = {
        "return {'n': 1}": ("completed", {"n": 1}, never_ready),
        "process.complete({'n': 1})": ("completed", {"n": 1}, never_ready),
        "sys.exit(0)": ("completed", None, never_ready),
        "raise ValueError('no book')": ("failed", None, "ValueError: no book"),
        "process.fail('no book')": ("failed", None, "no book"),
        "sys.exit(3)": ("failed", None, "exited with code 3 without complete() or fail()"),
    }
    if not world.is_virtual:
        ways["os._exit(4)"] = ("failed", None, "exited with code 4 without complete() or fail()")
    report = flavour.pick(asynchronous="process._controls._report", blocking="process._controls.report")
    entries = {
        statement: flavour.entry(
            world,
            f"""
        async def run(process):
            {report}("the shelf is empty")
            {statement}
            await trio.sleep_forever()
    """,
            f"{number}.py",
        )
        for number, statement in enumerate(ways)
    }
    async with world.worker() as worker:
        for statement, (state, result, text) in ways.items():
            with pytest.raises(StartupFailedError) as raised:
                await worker.backend_processes.spawn(entries[statement])
            info = raised.value.info
            assert text in str(raised.value)
            assert ("completed before it was ready" in str(raised.value)) == (state == "completed")
            assert ("the shelf is empty" in str(raised.value)) == (state == "failed")
            assert ("the shelf is empty" in (info.error or "")) == ("without complete()" in text)
            assert (info.state, info.exit_reason, info.ready_at) == (state, state, None)
            assert world.states(info.process_id) == ["starting", state]
            assert raised.value.result == world.events[-1].result == result
        assert await worker.backend_processes.list() == []


@both_flavours
async def test_ready_complete_and_fail_count_once(world, flavour: Flavour, world_clock: MockClock | None) -> None:
    """In a `def` entry each call after the final word raises `SystemExit` again: one that catches it still ends."""
    entry = flavour.entry(
        world,
        """
        async def run(process):
            process.ready(); process.ready()
            for call, *arguments in process.payload:
                try:
                    getattr(process, call)(*arguments)
                except SystemExit:
                    pass
            return 4
    """,
    )
    async with world.worker() as worker:
        for calls, state, result, error in (
            ([["complete", 1], ["complete", 2], ["fail", "late"], ["ready"]], ProcessState.COMPLETED, 1, None),
            ([["fail", "first"], ["fail", "second"], ["complete", 3], ["ready"]], ProcessState.FAILED, None, "first"),
        ):
            handle = await worker.backend_processes.spawn(entry, payload=calls)
            info = await handle.wait_ended()
            assert world.states(handle.process_id) == ["starting", "running", state]
            assert (handle.result, info.error) == (result, error)


@both_flavours
async def test_complete_and_fail_end_it_and_everything_sent_is_delivered(
    world, flavour: Flavour, world_clock: MockClock | None
) -> None:
    """An `async` entry is cancelled at its next checkpoint; in a `def` entry the call raises `SystemExit`."""
    end = flavour.pick(
        asynchronous="""
                getattr(process, process.payload)("done")
                process.send_nowait("on its way out")
                await trio.sleep_forever()
        """,
        blocking="""
                try:
                    getattr(process, process.payload)("done")
                except SystemExit:
                    process.send("on its way out")
                    raise
        """,
    )
    entry = flavour.entry(
        world,
        f"""
        async def run(process):
            process.ready()
            await process.send("before")
            try:
                {end.strip()}
                process.send_nowait("never")
            finally:
                process.send_nowait("finally")
    """,
    )
    async with world.worker() as worker:
        for word, state in (("complete", ProcessState.COMPLETED), ("fail", ProcessState.FAILED)):
            world.messages.clear()
            handle = await worker.backend_processes.spawn(entry, payload=word)
            info = await handle.wait_ended()
            result, error = ("done", None) if word == "complete" else (None, "done")
            assert (info.state, info.exit_reason, info.error) == (state, state, error)
            assert world.states(handle.process_id) == ["starting", "running", state]
            assert world.payloads() == ["before", "on its way out", "finally"]
            assert handle.result == world.events[-1].result == result


@both_flavours
async def test_what_it_raises_after_its_final_word_is_reported_on_stderr_only(
    world, flavour: Flavour, world_clock: MockClock | None
) -> None:
    entry = flavour.entry(
        world,
        """
        async def run(process):
            process.ready()
            try:
                process.complete("mine")
            finally:
                raise ValueError("too late")
    """,
    )
    handle = await run_to_end(world, entry)
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, "mine")
    assert "ValueError: too late" in stderr_of(handle)


@both_flavours
async def test_a_handler_left_registered_keeps_it_alive_until_complete_fail_or_a_stop(
    world, flavour: Flavour, world_clock: MockClock | None
) -> None:
    """A process with a stop handler does not end by itself: it is killed after its grace period."""
    entry = flavour.entry(
        world,
        """
        async def run(process):
            def handle(message):
                process.send_nowait(f"heard {message}")
                if message != "ping":
                    getattr(process, message)("by handler")
            if process.payload:
                process.on_stop(print)
            process.on_message(handle)
            process.ready()
            return "not yet"
    """,
    )
    async with world.quiet_worker(grace_period=world.seconds(1, 0.1)) as worker:
        for is_told in (False, True):
            for message, state, result in (
                ("complete", ProcessState.COMPLETED, "by handler"),
                ("fail", ProcessState.FAILED, None),
                (None, ProcessState.STOPPED, None),
            ):
                handle = await worker.backend_processes.spawn(entry, payload=is_told, heartbeat_timeout=math.inf)
                await trio.sleep(world.seconds(40, 0))
                await handle.send("ping")
                assert await handle.messages().receive() == "heard ping"
                assert handle.state is ProcessState.RUNNING
                await (handle.stop() if message is None else handle.send(message))
                info = await handle.wait_ended()
                assert (info.state, handle.result) == (state, result)


# ---- messages and frames


@both_flavours
async def test_messages_that_are_sent_before_it_asks_wait_for_it_in_order(
    world, flavour: Flavour, world_clock: MockClock | None
) -> None:
    """The stop tells the entry that all has been sent, without it having asked for a message."""
    wait = flavour.pick(asynchronous="await process.wait_stop()", blocking="while not process.stop_requested: pass")
    entry = flavour.entry(
        world,
        f"""
        async def run(process):
            process.ready()
            {wait}
            receive = process.messages().receive
            return [await receive() for _ in range(200)]
    """,
    )
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        for number in range(200):
            await handle.send(number)
        await handle.stop()
    assert handle.result == list(range(200))


@both_flavours
async def test_messages_that_are_sent_while_it_starts_wait_for_it(
    world, flavour: Flavour, world_clock: MockClock | None
) -> None:
    entry = flavour.entry(
        world,
        """
        async def run(process):
            receive = process.messages().receive
            first = await receive()
            process.ready()
            return [first, await receive()]
    """,
    )
    async with world.worker() as worker, trio.open_nursery() as nursery:
        processes = worker.backend_processes

        async def send_early() -> None:
            event = await wait_state(worker, None, ProcessState.STARTING)
            await processes.send(event.process_id, "early")
            await processes.send(event.process_id, "second")

        nursery.start_soon(send_early)
        await trio.testing.wait_all_tasks_blocked()
        handle = await processes.spawn(entry)
        await handle.wait_ended()
    assert handle.result == ["early", "second"]


@both_flavours_on_real_processes
async def test_a_frame_is_with_the_system_when_the_call_returns(real_world, flavour: Flavour) -> None:
    """Real processes only: the effect of a call shows when the process is gone right after it."""
    entries = {
        flavour.entry(
            real_world,
            f"""
        async def run(process):
            process.ready()
            {send}
            if process.payload:
                try:
                    getattr(process, process.payload)("mine")
                except SystemExit:
                    pass
            os.kill(os.getpid(), signal.SIGKILL)
    """,
            f"{number}.py",
        ): word
        for number, (send, word) in enumerate(
            [
                ("await process.send('said')", None),
                ("process.send_nowait('said')", None),
                ("process.send_nowait('said')", "complete"),
                ("process.send_nowait('said')", "fail"),
            ]
        )
    }
    async with real_world.worker() as worker:
        for entry, word in entries.items():
            real_world.messages.clear()
            handle = await worker.backend_processes.spawn(entry, payload=word)
            info = await handle.wait_ended()
            state = ProcessState.COMPLETED if word == "complete" else ProcessState.FAILED
            assert real_world.states(handle.process_id) == ["starting", "running", state]
            assert real_world.payloads() == ["said"]
            assert handle.result == ("mine" if word == "complete" else None)
            if word == "fail":
                assert info.error == "mine"
            elif word is None:
                assert "SIGKILL" in info.error


@both_flavours_on_real_processes
async def test_an_entry_may_turn_away_right_after_ready_and_send(real_world, flavour: Flavour) -> None:
    """An `async` entry stops yielding, a `def` entry stops calling its context: what it has said is out.

    Real processes only: in memory an entry that does not yield stops the whole program.
    """
    gate = Gate(real_world.root)
    entry = flavour.entry(
        real_world,
        """
        async def run(process):
            process.ready()
            process.send_nowait("sent")
            open("gate").read()
            return "went on"
    """,
    )
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        assert await handle.messages().receive() == "sent"
        await gate.wait_reached()
        gate.open()
        await handle.wait_ended()
    assert handle.result == "went on"
