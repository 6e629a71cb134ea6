"""A stop, as an entry in JavaScript hears of it, at any time of its life."""

from __future__ import annotations

import pytest
import trio

from spindle_trio import ExitReason, ProcessState, StartupCancelledError
from support.contract import Gate, stderr_of
from support.javascript import SLACK, WEDGES, Stage, body, outcome

FS = "import fs from 'node:fs'; import { setTimeout as wait } from 'node:timers/promises';"


async def test_without_a_handler_the_runtime_ends_the_process_and_cleans_up_once(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(body("p.ready(); return () => p.send('cleaned');"))
        messages = handle.messages()
        await handle.stop("enough")
        assert [payload async for payload in messages] == ["cleaned"]
        assert await outcome(handle) == ("stopped", None)
        still_busy = await stage.spawn(body("p.ready(); await new Promise(() => {});"))
        await still_busy.stop()
        assert await outcome(still_busy) == ("stopped", None)


@pytest.mark.parametrize("reason", ["enough", None])
async def test_handlers_are_told_the_reason_and_end_the_process_themselves(stage: Stage, reason: str | None) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            p.onStop((detail) => p.send(["first", detail, Object.keys(detail)]));
            p.onStop((detail) => setTimeout(() => p.complete(["second", detail.reason ?? null]), 10));
            p.ready();
            return () => p.send("cleaned");
            """)
        )
        messages = handle.messages()
        await handle.stop(reason)
        detail = {} if reason is None else {"reason": reason}
        assert [payload async for payload in messages] == [["first", detail, ["reason"]], "cleaned"]
        assert (*await outcome(handle), handle.result) == ("completed", None, ["second", reason])


async def test_what_handlers_of_a_stop_may_do(stage: Stage) -> None:
    cases = {
        "p.onStop(() => p.complete('in it'))": ("completed", None),
        "p.onStop(() => p.fail('in it'))": ("failed", "in it"),
        "p.onStop(() => process.exit(0))": ("stopped", None),
        "p.onStop(() => process.exit(3))": ("stopped", None),
        "p.onStop(() => { setTimeout(() => { throw new Error('then') }) })": ("stopped", None),
        "p.onStop(async () => { throw new Error('then') })": ("stopped", None),
        "p.onStop(() => { throw new Error('one') }); p.onStop(() => p.complete('the other'))": ("completed", None),
        "const told = () => p.send('told'); p.onStop(told); p.onStop(told); p.onStop(() => p.complete())": (
            "completed",
            None,
        ),
        "const off = p.onStop(() => p.complete('never')); off(); off()": ("stopped", None),
        "const off = p.onStop(() => {}); off(); p.onStop(() => p.fail('yes')); off()": ("failed", "yes"),
    }
    async with stage.host():

        async def run(code: str) -> tuple[object, object, str]:
            handle = await stage.spawn(body(f"{code}; p.ready();"))
            await handle.stop()
            return await outcome(handle), handle.statistics().messages_received, stderr_of(handle)

        ends = await stage.for_each({code: code for code in cases}, run)
    assert {code: end for code, (end, _, _) in ends.items()} == cases
    for code, (_, messages, stderr) in ends.items():
        assert messages == (1 if "told" in code else 0), "registered twice, a handler counts once"
        assert ("a stop handler threw: Error: one" in stderr) == ("'one'" in code)
        assert ("while the process was stopping: Error: then" in stderr) == ("'then'" in code)


async def test_a_handler_that_does_nothing_leaves_the_end_to_the_host(stage: Stage) -> None:
    async with stage.host(grace_period=0.3):
        handle = await stage.spawn(body("p.onStop(() => {}); p.ready(); return () => p.send('cleaned');"))
        since = trio.current_time()
        await handle.stop()
        assert 0.29 <= trio.current_time() - since < 0.3 + SLACK
        assert handle.state is ProcessState.STOPPED
        assert handle.statistics().messages_received == 0


async def test_an_event_loop_that_hangs_is_ended_after_the_grace_period(stage: Stage) -> None:
    async with stage.host(grace_period=0.3):
        handle = await stage.spawn(WEDGES)
        await handle.stop()
        assert (await outcome(handle))[0] == "stopped"


async def test_a_stop_before_ready_ends_an_entry_that_was_called(stage: Stage) -> None:
    async with stage.host(), trio.open_nursery() as nursery:
        entry = stage.write(
            body(
                "p.onStop(({ reason }) => { p.send(reason); p.complete(); }); fs.writeFileSync('called', '');", head=FS
            )
        )
        await stop_when_there(stage, nursery, entry, "called", reason="not needed")
    assert [str(event.state) for event in stage.events] == ["starting", "stopping", "completed"]


async def test_a_stop_while_the_file_is_loaded_ends_the_process_without_calling_it(stage: Stage) -> None:
    async with stage.host(), trio.open_nursery() as nursery:
        entry = stage.write(
            body(
                "p.fail('called');",
                head=FS + "fs.writeFileSync('loading', ''); await wait(60_000);",
            )
        )
        await stop_when_there(stage, nursery, entry, "loading")
    assert stage.events[-1].exit_reason is ExitReason.STOPPED
    assert stage.events[-1].error is None


async def test_a_stop_that_is_there_once_the_file_is_loaded_ends_the_process_without_calling_it(stage: Stage) -> None:
    """The file was read without yielding, so that nobody has heard the frame: the mark in the page counts."""
    gate = Gate(stage.root)
    source = f"""
    import fs from "node:fs";
    fs.readFileSync({str(gate.path)!r});
    export default (p) => {{ fs.writeFileSync("called", ""); p.ready(); }};
    """
    async with stage.host(), trio.open_nursery() as nursery:
        nursery.start_soon(spawn_in_vain, stage, stage.write(source))
        await gate.wait_reached()
        (info,) = await stage.worker.backend_processes.list()
        nursery.start_soon(stage.worker.backend_processes.stop, info.process_id)
        while stage.events[-1].state is not ProcessState.STOPPING:
            await trio.sleep(0.01)
        gate.open()
    assert stage.events[-1].exit_reason is ExitReason.STOPPED
    assert stage.events[-1].error is None
    assert not (stage.root / "called").exists()


async def stop_when_there(
    stage: Stage, nursery: trio.Nursery, entry: str, mark: str, reason: str | None = None
) -> None:
    """Spawn an entry, and stop it once it has written a file."""
    nursery.start_soon(spawn_in_vain, stage, entry)
    while not (stage.root / mark).exists():
        await trio.sleep(0.01)
    (info,) = await stage.worker.backend_processes.list()
    await stage.worker.backend_processes.stop(info.process_id, reason=reason)


async def spawn_in_vain(stage: Stage, entry: str) -> None:
    with pytest.raises(StartupCancelledError):
        await stage.worker.backend_processes.spawn(entry)


async def test_a_replacement_and_an_unload_are_stops(stage: Stage) -> None:
    async with stage.host():
        entry = body("p.onStop(({ reason }) => { p.send([reason ?? null]); p.complete(); }); p.ready();")
        first = await stage.spawn(entry, kind="k", key="k")
        messages = first.messages()
        second = await stage.spawn(entry, kind="k", key="k", replace_existing=True)
        assert (await first.wait_ended()).exit_reason is ExitReason.REPLACED
        assert len([payload async for payload in messages]) == 1
    assert (await second.wait_ended()).exit_reason is ExitReason.BACKEND_UNLOADED


async def test_ready_and_heartbeats_while_stopping_change_nothing(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("p.onStop(() => { p.ready(); p.heartbeat(); setTimeout(p.complete, 20); }); p.ready();")
        )
        await handle.stop()
        assert [str(event.state) for event in stage.events] == ["starting", "running", "stopping", "completed"]
