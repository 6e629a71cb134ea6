"""Checks of a launcher's lanes. Each is a function whose docstring is the promise."""

from __future__ import annotations

import json

import attrs
import trio

from spindle_trio._errors import PeerProtocolError
from spindle_trio._model import JsonValue
from spindle_trio._protocol._control_frames import encode_stop
from spindle_trio._protocol._frames import encode_body
from spindle_trio.testing._launch_bench import (
    CANCELLATIONS,
    LIMITS,
    Bench,
    cancel_after,
    expect_nowait,
    read_to_the_end,
)


async def keeps_order(bench: Bench) -> None:
    """Messages arrive once each and in order, both ways, whatever their size."""
    payloads: list[object] = [*range(200), "x" * 300_000, "y" * 300_000, {"small": 1}, "z" * (LIMITS.frame_bytes - 2)]
    async with bench.launched("echo") as subject, trio.open_nursery() as nursery:
        await subject.expect_ready()
        nursery.start_soon(subject.send, *payloads)
        await trio.sleep(0.05)  # so that several frames wait, and are received together
        got = await subject.messages(len(payloads))
        differing = [number for number, (sent, came) in enumerate(zip(payloads, got, strict=True)) if sent != came]
        assert not differing, f"of {len(payloads)} messages, number {differing[0]} was the first to differ"


async def receive_keeps_trios_rules(bench: Bench) -> None:
    """`receive_nowait` raises `WouldBlock` while nothing has arrived, and a cancelled `receive` loses nothing."""
    async with bench.launched("echo") as subject:
        await subject.expect_ready()
        expect_nowait(subject.process.messages, trio.WouldBlock)
        for number in range(10):
            with trio.CancelScope() as scope:
                scope.cancel()
                await subject.process.messages.receive(10)
            assert scope.cancelled_caught, "receive() was cancelled before it was called, and went on"
            await subject.send(number)
            await trio.sleep(0.001)
        assert await subject.messages(10, at_a_time=3) == list(range(10)), "messages were lost, or changed places"
        # Cancelled while it waits, at every step around the one in which a message comes.
        got: list[JsonValue] = []
        for number in range(2 * CANCELLATIONS):
            await subject.send(number)
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    nursery.start_soon(cancel_after, scope, number // 2, number % 2 / 10_000)  # noqa: ASYNC111  # as below
                    got += map(json.loads, await subject.process.messages.receive(10))
            got += await subject.messages(number + 1 - len(got))
        assert got == list(range(2 * CANCELLATIONS)), "messages were lost, or changed places"


async def holds_up_senders(bench: Bench) -> None:
    """A process that does not read makes `send_nowait` return false, and still hears a stop."""
    async with bench.launched("hold") as subject:
        await subject.expect_ready()
        body = encode_body("x" * 100_000)
        for _ in range(1000):
            if not subject.process.messages.send_nowait(body):
                break
        else:
            raise AssertionError("100 MB of messages left at once for a process that reads none")
        assert subject.process.control.send_nowait(encode_stop("enough")), "a stop did not leave at once"
        subject.process.request_stop()
        subject.process.request_stop()
        frame = await subject.frame()
        assert (frame["type"], frame.get("result")) == ("complete", "enough"), f"the stop was answered by {frame}"


async def leaves_lanes_readable(bench: Bench) -> None:
    """What a process has sent before its end can be read after it, and then `EndOfChannel` comes, each time."""
    async with bench.launched("flood", count=10, size=100) as subject:
        await subject.process.wait()
        got = await subject.messages(10)
        assert got == [[number, "x" * 100] for number in range(10)], "messages from before the end were lost"
        await subject.expect_ready()
        frame = await subject.frame()
        assert frame["type"] == "complete", f"after ready came {frame}, not complete"
        for lane in (subject.process.control, subject.process.messages):
            await read_to_the_end(lane)
            expect_nowait(lane, trio.EndOfChannel)
            try:
                lane.send_nowait(b"1")
            except trio.BrokenResourceError:
                pass
            else:
                raise AssertionError("send_nowait to a process that is gone raised no BrokenResourceError")


async def waits_for_readers(bench: Bench) -> None:
    """A process whose messages are not read waits, and loses none of them."""
    async with bench.launched("flood", count=100, size=100_000) as subject:
        await subject.expect_ready()
        with trio.move_on_after(0.2):
            await subject.process.wait()
        assert not subject.process.has_exited(), "10 MB of unread messages were taken in"
        numbers = [message[0] for message in await subject.messages(100) if isinstance(message, list)]
        assert numbers == list(range(100)), "messages were lost, or changed places"


async def refuses_long_frames(bench: Bench) -> None:
    """A frame from the process that is longer than `frame_bytes` is refused by `PeerProtocolError`, each time."""
    limits = attrs.evolve(LIMITS, frame_bytes=1000)
    async with bench.launched("flood", limits=limits, count=1, size=1000) as subject:
        for _ in range(2):
            try:
                await subject.process.messages.receive(1)
            except PeerProtocolError:
                continue
            raise AssertionError("it was let in")
