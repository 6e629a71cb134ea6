"""Bytes in payloads, both ways: messages, calls, answers and items; what is bounded, and what is refused."""

from __future__ import annotations

import os

import pytest
import trio

import spindle_trio as spindle

ASYNC = """
    async def run(process):
        @process.on_call
        async def echo(payload):
            return payload

        @process.on_call
        async def kind(payload):
            return type(payload).__name__

        @process.on_call
        async def zeros(size):
            return [bytearray(size), memoryview(bytes(size))[::2]]

        @process.on_call
        async def parts(data):
            for begin in range(0, len(data), 10):
                yield {"at": begin, "data": data[begin:begin + 10]}

        process.ready()
        process.beat_while_running()
        async for payload in process.messages():
            await process.send(payload)
"""

BLOCKING = """
    def run(process):
        process.on_call("echo", lambda payload: payload)
        process.on_call("kind", lambda payload: type(payload).__name__)
        process.on_call("zeros", lambda size: [bytearray(size), memoryview(bytes(size))[::2]])

        @process.on_call
        def parts(data):
            for begin in range(0, len(data), 10):
                yield {"at": begin, "data": data[begin:begin + 10]}

        process.ready()
        while True:
            process.send(process.receive())
"""

HANDLES = """
    def run(process):
        process.on_message(process.send)
        process.ready()
"""

LARGE = os.urandom(1_000_003)

PAYLOADS = [
    b"",
    b"\x00\xff",
    LARGE,
    {"a": b"first", "b": [b"", {"c": b"second" * 1000}, 3], "d": "text"},
    [bytes([number]) * number for number in range(256)],
    [LARGE, {"then": LARGE[:70_000]}, b"last"],
    {"$raw": 3, "data": b"12"},
    [{"$raw": 3}, {"$$raw": 3}, {"$date": "x"}, {"$raw": b"escaped"}, b"x"],
    {"$set": {"$raw": b"deep"}},
    ['{"$raw":5}', b"12345"],
]


async def _checks(world, entry, options):
    """Send each payload both ways, as a message and in a call."""
    async with world.worker(**options) as worker:
        handle = await worker.backend_processes.spawn(entry)
        async with handle.messages() as messages:
            for payload in PAYLOADS:
                assert await handle.call("echo", payload) == payload
                await handle.send(payload)
                assert await messages.receive() == payload
            handle.send_nowait([b"several", 1])
            handle.send_nowait("plain")
            handle.send_nowait(LARGE)
            handle.send_nowait("after")
            assert [await messages.receive() for _ in range(4)] == [[b"several", 1], "plain", LARGE, "after"]
        assert await handle.call("kind", bytearray(b"x")) == "bytes"
        assert await handle.call("kind", memoryview(b"xyz")[::2]) == "bytes"
        assert await handle.call("zeros", 5) == [b"\0" * 5, b"\0" * 3]
        async with handle.stream("parts", LARGE[:95]) as items:
            found = [item async for item in items]
        assert [item["at"] for item in found] == list(range(0, 95, 10))
        assert b"".join(item["data"] for item in found) == LARGE[:95]
        assert await handle.call("echo", "still here") == "still here"


async def test_bytes_travel_both_ways_as_they_are(world, world_clock):
    await _checks(world, world.entry(ASYNC), {})


async def test_bytes_travel_both_ways_to_and_from_a_blocking_entry(real_world):
    await _checks(real_world, real_world.blocking_entry(BLOCKING), {})


async def test_bytes_travel_in_small_frames_as_well(world, world_clock):
    await _checks(world, world.entry(ASYNC), {"limits": spindle.Limits(frame_bytes=10_000)})


async def test_a_message_handler_of_a_blocking_entry_gets_bytes(real_world):
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(real_world.blocking_entry(HANDLES))
        async with handle.messages() as messages:
            for payload in ([b"a", LARGE], "between", b""):
                await handle.send(payload)
                assert await messages.receive() == payload


async def test_what_the_caller_changes_later_was_copied(world, world_clock):
    world.entry(ASYNC)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        data = bytearray(LARGE)
        async with handle.messages() as messages:
            handle.send_nowait(data)
            data[:] = bytes(len(data))
            assert await messages.receive() == LARGE


async def test_bytes_over_the_bound_are_refused_at_either_end(world, world_clock):
    world.entry(ASYNC)
    async with world.quiet_worker(limits=spindle.Limits(binary_bytes=1_000)) as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        assert await handle.call("echo", [b"x" * 400, b"y" * 600]) == [b"x" * 400, b"y" * 600]
        refused = r"payload\[1\]: more than 1000 bytes in bytes values; raise Limits\(binary_bytes=…\)"
        with pytest.raises(spindle.PayloadError, match=refused):
            await handle.call("echo", [b"x" * 400, b"y" * 601])
        with pytest.raises(spindle.PayloadError, match=refused):
            handle.send_nowait([b"x" * 400, b"y" * 601])
        with pytest.raises(spindle.CallFailedError, match="more than 1000 bytes") as caught:
            await handle.call("zeros", 990)
        assert caught.value.error_type == "PayloadError"
        assert await handle.call("echo", b"still here") == b"still here"


async def test_a_host_without_room_for_bytes_sends_and_takes_none(world, world_clock):
    world.entry(ASYNC)
    async with world.quiet_worker(limits=spindle.Limits(binary_bytes=0)) as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        with pytest.raises(spindle.PayloadError, match="bytes is not JSON-safe: send text, as by base64"):
            await handle.send(b"x")
        with pytest.raises(spindle.CallFailedError, match="bytearray is not JSON-safe: send text, as by base64"):
            await handle.call("zeros", 1)


async def test_a_payload_at_spawn_has_no_bytes_and_the_error_says_what_to_do(world, world_clock):
    world.entry(ASYNC)
    async with world.quiet_worker() as worker:
        with pytest.raises(spindle.PayloadError, match=r"payload\.a: bytes is not JSON-safe: send them in a message"):
            await worker.backend_processes.spawn("entry.py", payload={"a": b"x"})
        with pytest.raises(spindle.PayloadError, match=r"metadata\.a: bytes is not JSON-safe"):
            await worker.backend_processes.spawn("entry.py", metadata={"a": b"x"})


async def test_bytes_count_as_one_value(world, world_clock):
    world.entry(ASYNC)
    async with world.quiet_worker(limits=spindle.Limits(values=5)) as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        assert await handle.call("echo", [b"x"] * 4) == [b"x"] * 4
        with pytest.raises(spindle.PayloadError, match="more than 5 values"):
            await handle.call("echo", [b"x"] * 5)


async def test_a_released_memoryview_is_refused(world, world_clock):
    world.entry(ASYNC)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        view = memoryview(b"x")
        view.release()
        with pytest.raises(spindle.PayloadError, match="the memoryview was released"):
            await handle.send({"a": view})


async def test_a_caller_that_is_cancelled_while_its_bytes_leave_harms_nobody(world, world_clock):
    world.entry(ASYNC)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        with trio.move_on_after(0):
            await handle.call("echo", LARGE * 5)
        assert await handle.call("echo", LARGE) == LARGE
        async with handle.stream("parts", LARGE) as items:
            await items.receive()
        assert await handle.call("echo", [LARGE, 1]) == [LARGE, 1]


async def test_a_process_that_ends_with_bytes_under_way_loses_its_callers(world, world_clock):
    world.entry(
        """
        async def run(process):
            @process.on_call
            async def leave(payload):
                sys.exit(3)

            process.ready()
        """
    )
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        async with trio.open_nursery() as nursery:

            async def is_lost(method, payload):
                with pytest.raises(spindle.ProcessLostError):
                    await handle.call(method, payload)

            nursery.start_soon(is_lost, "leave", LARGE)
            for _ in range(3):
                nursery.start_soon(is_lost, "leave", LARGE * 10)
        await handle.wait_ended()


async def test_messages_with_bytes_arrive_before_the_end(world, world_clock):
    world.entry(
        """
        async def run(process):
            process.ready()
            for number in range(5):
                process.send_nowait([number, bytes(100_000)])
            return "done"
        """
    )
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        async with handle.messages() as messages:
            found = [payload[0] async for payload in messages]
        assert found == list(range(5))
        assert handle.result == "done"


async def test_other_calls_and_a_stop_go_on_while_bytes_leave(world, world_clock):
    world.entry(ASYNC)
    world.entry(
        """
        async def run(process):
            process.ready()
            process.beat_while_running()
            await process.wait_stop()
        """,
        "deaf.py",
    )
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        deaf = await worker.backend_processes.spawn("deaf.py")
        deaf.send_nowait(LARGE * 20)  # nobody reads it
        assert await handle.call("echo", b"x") == b"x"
        with pytest.raises(trio.WouldBlock):
            for _ in range(100):
                deaf.send_nowait(LARGE)
        await deaf.stop()
        assert deaf.state == "completed"


@pytest.mark.parametrize("payload", ["b''", "LARGE", "{'a': [LARGE, b'x', 1], 'b': b''}"])
async def test_a_result_may_hold_bytes(world, world_clock, payload):
    world.entry(
        f"""
        LARGE = bytes(range(256)) * 4_000

        async def run(process):
            process.ready()
            process.send_nowait(LARGE)
            return {payload}
        """
    )
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        info = await handle.wait_ended()
        assert info.state == "completed"
        assert handle.result == eval(payload, {"LARGE": bytes(range(256)) * 4_000})  # noqa: S307  # of this file
        assert handle.post_mortem is None


async def test_a_result_of_a_blocking_entry_may_hold_bytes(real_world):
    source = """
        def run(process):
            process.ready()
            process.receive()
            process.complete({"data": bytes(3_000_000)})
    """
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(real_world.blocking_entry(source))
        await handle.send(None)
        await handle.wait_ended()
        assert handle.result == {"data": bytes(3_000_000)}


async def test_a_result_with_too_many_bytes_fails_the_process(world, world_clock):
    world.entry(
        """
        async def run(process):
            process.ready()
            return bytes(1_001)
        """
    )
    async with world.quiet_worker(limits=spindle.Limits(binary_bytes=1_000)) as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        info = await handle.wait_ended()
        assert info.state == "failed"
        assert "result: more than 1000 bytes in bytes values" in handle.post_mortem.error
