"""Messages to and from JavaScript entries: order, size, back-pressure, and the last ones before an end."""

from __future__ import annotations

import pytest
import trio

from spindle_trio import Limits, ProcessState
from support.contract import stderr_of
from support.javascript import ECHO, Stage, body, outcome

FRAME_TEXT = 2**20 - 20

GO = "await new Promise((go) => { const off = p.onMessage(() => { off(); go(); }); p.ready(); });"
"""Becomes ready, and waits for a message, so that the test can subscribe before the flood."""


async def test_messages_come_back_in_order_whatever_their_size(stage: Stage) -> None:
    payloads: list[object] = [*range(300), "x" * 70_000, {"ü": "\U0001f600" * 20_000}, "y" * (2**20 - 2), *range(300)]
    came: list[object] = []
    async with stage.host(), trio.open_nursery() as nursery:
        handle = await stage.spawn(ECHO)
        messages = handle.messages()

        async def send_all() -> None:
            for payload in payloads:
                await handle.send(payload)

        nursery.start_soon(send_all)
        came += [await messages.receive() for _ in payloads]
        assert came == payloads


async def test_messages_wait_for_the_first_handler(stage: Stage) -> None:
    """They are there before it, in the process and in its lane, and come in order once somebody asks."""
    async with stage.host():
        handle = await stage.spawn(
            body("""
            p.onStop(() => p.onMessage((payload) => { p.send(payload); if (payload === "last") p.complete(); }));
            p.ready();
            """)
        )
        messages = handle.messages()
        sent = [*range(100), "last"]
        for payload in sent:
            await handle.send(payload)
        await handle.stop()
        assert [payload async for payload in messages] == sent


async def test_handlers_are_told_apart_and_hear_what_they_are_registered_for(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            const heard = [];
            const note = (payload) => heard.push(["note", payload]);
            const offNote = p.onMessage(note);
            p.onMessage(note);
            p.onMessage(() => { throw new Error("cannot listen"); });
            const offOnce = p.onMessage((payload) => { offOnce(); offOnce(); heard.push(["once", payload]); });
            p.onMessage((payload) => {
              if (payload === 2) offNote();
              if (payload === 3) p.onMessage(note);
              if (payload === 5) p.complete(heard);
            });
            p.ready();
            """)
        )
        for payload in range(1, 6):
            await handle.send(payload)
        await handle.wait_ended()
    assert handle.result == [["note", 1], ["once", 1], ["note", 2], ["note", 4]]
    assert stderr_of(handle).count("a message handler threw: Error: cannot listen\n    at ") == 5


async def test_what_a_handler_takes_back_while_all_are_told_is_not_told_any_more(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            let off;
            p.onMessage(() => off());
            off = p.onMessage(() => p.fail("told"));
            p.onMessage(() => p.complete("in the end"));
            p.ready();
            """)
        )
        await handle.send(1)
        await handle.wait_ended()
    assert handle.result == "in the end"


async def test_what_nobody_handles_any_more_waits_for_the_next_handler(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            const off = p.onMessage((payload) => {
              off();
              setTimeout(() => p.onMessage((later) => p.complete([payload, later])), 20);
            });
            p.ready();
            """)
        )
        await handle.send("first")
        await handle.send("second")
        await handle.wait_ended()
    assert handle.result == ["first", "second"]


@pytest.mark.parametrize("wrong", ["undefined", "null", "'text'", "{}"])
async def test_a_handler_has_to_be_a_function(stage: Stage, wrong: str) -> None:
    async with stage.host():
        handle = await stage.end(body(f"p.ready(); p.onMessage({wrong});"))
        assert str(handle.info.error).startswith("TypeError: a handler must be a function, not ")


async def test_messages_before_ready_and_from_the_clean_up_arrive(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("p.send('early'); p.ready(); p.complete(); p.send('late'); return () => p.send('last');")
        )
        assert [payload async for payload in handle.messages()] == ["early", "last"]


# ---- back-pressure

FLOODS = f"""
{GO}
p.onMessage((payload) => p.complete(payload));
for (let number = 0; number < 5000; number += 1) p.send([number, "x".repeat(1000)]);
p.send("all said");
setInterval(() => p.heartbeat(), 20);
"""


@pytest.mark.slow
async def test_a_host_that_does_not_read_holds_up_no_event_loop(stage: Stage) -> None:
    """`send` never blocks: what the system does not take waits in the process, whose timers and lanes go on."""
    async with stage.host(limits=Limits(inbox_messages=5)):
        handle = await stage.spawn(body(FLOODS), heartbeat_timeout=1)
        messages = handle.messages()
        await handle.send("go")
        await trio.sleep(1.5)
        assert handle.state is ProcessState.RUNNING
        assert handle.statistics().inbox_messages <= 64
        numbers = [(await messages.receive())[0] for _ in range(5000)]  # type: ignore[index]
        assert numbers == list(range(5000))
        assert await messages.receive() == "all said"
        await handle.send("enough")
        assert (*await outcome(handle), handle.result) == ("completed", None, "enough")


async def test_what_waits_leaves_while_an_entry_beats_that_does_not_yield(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body(
                f"""
                {GO}
                for (let number = 0; number < 3000; number += 1) p.send([number, "x".repeat(1000)]);
                while (!fs.existsSync("enough")) p.heartbeat();
                for (let number = 0; !fs.existsSync("enough, really"); number += 1) p.send(number);
                p.complete();
                """,
                head="import fs from 'node:fs';",
            ),
            heartbeat_timeout=5,
        )
        messages = handle.messages()
        await handle.send("go")
        for number in range(3000):
            assert await messages.receive() == [number, "x" * 1000]
        (stage.root / "enough").touch()
        for number in range(3000):
            assert await messages.receive() == number
        (stage.root / "enough, really").touch()
        async for payload in messages:
            number += 1  # the count goes on
            assert payload == number
        assert await outcome(handle) == ("completed", None)


async def test_a_process_that_does_not_read_makes_the_sender_wait(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(body("p.onStop(() => p.complete('told')); p.ready();"))
        for _ in range(1000):
            with trio.move_on_after(0.2) as scope:
                await handle.send("x" * 10_000)
            if scope.cancelled_caught:
                break
        else:
            raise AssertionError("10 MB left for a process that reads nothing")
        with pytest.raises(trio.WouldBlock):
            handle.send_nowait("x" * 10_000)
        await handle.stop()
        assert handle.result == "told"


async def test_a_stop_reaches_a_process_whose_lanes_are_full_both_ways(stage: Stage) -> None:
    async with stage.host(limits=Limits(inbox_messages=5)):
        handle = await stage.spawn(
            body("""
            p.onStop((detail) => p.complete(["told", detail.reason]));
            p.ready();
            for (let number = 0; number < 200; number += 1) p.send("x".repeat(10_000));
            """)
        )
        channel = handle.messages()
        with pytest.raises(trio.WouldBlock):
            while True:
                handle.send_nowait("x" * 10_000)
        while handle.statistics().inbox_messages < 5:
            await trio.sleep(0.01)
        await handle.stop("enough")
        assert (*await outcome(handle), handle.result) == ("completed", None, ["told", "enough"])
        channel.close()


@pytest.mark.slow
async def test_a_process_that_waits_for_its_host_at_its_exit_counts_as_alive(stage: Stage) -> None:
    async with stage.host(limits=Limits(inbox_messages=5)):
        handle = await stage.spawn(
            body(f"""
            {GO}
            for (let number = 0; number < 3000; number += 1) p.send([number, "x".repeat(1000)]);
            process.exit(0);
            """),
            heartbeat_timeout=1,
        )
        messages = handle.messages()
        await handle.send("go")
        with trio.move_on_after(1.5):
            await handle.wait_ended()
        assert handle.state is ProcessState.RUNNING
        assert [(await messages.receive())[0] for _ in range(3000)] == list(range(3000))  # type: ignore[index]
        assert (await outcome(handle))[1] == "exited with code 0 without complete() or fail()"


# ---- 20 MB, in frames of nearly 1 MiB

LAST_WORDS = {
    "p.complete('done')": ("completed", None),
    "p.fail('no disk')": ("failed", "no disk"),
    "process.exit(3)": ("failed", "exited with code 3 without complete() or fail()"),
    "throw new Error('late')": ("failed", "Error: late"),
    "p.complete('done'); process.exit()": ("completed", None),
}


@pytest.mark.parametrize("end", LAST_WORDS)
async def test_20_megabytes_arrive_whole_before_each_end(stage: Stage, end: str) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body(f"{GO} for (let n = 0; n < 20; n += 1) p.send([n, 'x'.repeat({FRAME_TEXT})]); {end};")
        )
        messages = handle.messages()
        await handle.send("go")
        payloads = [payload async for payload in messages]
        assert await outcome(handle) == LAST_WORDS[end]
    assert [(number, len(text)) for number, text in payloads] == [(number, FRAME_TEXT) for number in range(20)]  # type: ignore[misc]


async def test_20_megabytes_arrive_whole_where_nobody_reads_until_the_end(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body(f"""
            p.onStop(() => {{
              for (let n = 0; n < 20; n += 1) p.send([n, "x".repeat({FRAME_TEXT})]);
              p.complete("done");
            }});
            p.ready();
            """)
        )
        messages = handle.messages()
        await handle.stop()
        assert [payload[0] async for payload in messages] == list(range(20))  # type: ignore[index]
        assert (*await outcome(handle), handle.result) == ("completed", None, "done")


@pytest.mark.slow
async def test_many_small_messages_at_once_are_no_slower_for_being_many(stage: Stage) -> None:
    """Waiting messages are not copied whenever one leaves."""
    async with stage.host():
        handle = await stage.spawn(body(f"{GO} for (let n = 0; n < 100_000; n += 1) p.send(n); p.complete();"))
        messages = handle.messages()
        await handle.send("go")
        count = 0
        async for payload in messages:
            assert payload == count
            count += 1
        assert count == 100_000
