"""Payloads: which may travel, and the errors for others, at the sender and from a child that lies."""

from __future__ import annotations

import math

import pytest
import trio

import spindle_trio as spindle
from support.payload import (
    BAD,
    BLOCKING_CHILD_TRIES,
    BLOCKING_ECHO,
    CHILD_TRIES,
    ECHO,
    GOOD,
    RETURNS,
    as_result,
    built,
    check_texts,
    echo,
    refuses_each,
)
from support.state import LANES

# At the sender: the host's side.


async def test_what_is_not_json_safe_is_refused_at_the_host_with_its_path(world, world_clock):
    world.entry(ECHO)
    async with world.quiet_worker() as worker:
        processes = worker.backend_processes
        handle = await processes.spawn("entry.py")
        for source, says in BAD.items():
            value = built(source)
            path = says if says[0] in ".[" else f": {says}"
            for sending, name in [
                (lambda value=value: processes.spawn("entry.py", payload=value), "payload"),
                (lambda value=value: processes.spawn("entry.py", metadata={"m": value}), "metadata.m"),
                (lambda value=value: handle.send(value), "payload"),
                (lambda value=value: processes.send(handle.process_id, value), "payload"),
            ]:
                if "nested" in says and name == "metadata.m":
                    continue  # the metadata is one container more; looked at below
                with pytest.raises(spindle.PayloadError) as caught:
                    await sending()
                text = str(caught.value)
                assert says in text, (source, text)
                if says[0] in ".[":
                    assert f"{name}{path}" in text, (source, text)
                assert text.startswith(name.partition(".")[0]), (source, text)
                assert len(text) < 1_000
            with pytest.raises(spindle.PayloadError):
                handle.send_nowait(value)
        assert world.states() == ["starting", "running"]
        assert await echo(handle, "still here") == "still here"
        assert handle.statistics().messages_received == 1


async def test_metadata_is_bounded_like_a_payload(world, world_clock):
    world.entry(ECHO)
    async with world.quiet_worker() as worker:
        spawn = worker.backend_processes.spawn
        for metadata in ({"m": built("nested(64)")}, {"m": "x" * 2**24}, {"m": built("cycle()")}):
            with pytest.raises(spindle.PayloadError, match="metadata"):
                await spawn("entry.py", metadata=metadata)
        handle = await spawn("entry.py", metadata={"m": built("nested(63)")})
        assert handle.info.metadata == {"m": built("nested(63)")}
        assert (await worker.backend_processes.get(handle.process_id)).metadata == {"m": built("nested(63)")}


async def test_a_payload_error_is_a_value_error_too(world, world_clock):
    world.entry(ECHO)
    async with world.quiet_worker() as worker:
        with pytest.raises(ValueError, match=r"payload\.items\[3\]: set is not JSON-safe"):
            await worker.backend_processes.spawn("entry.py", payload={"items": [0, 1, 2, {3}]})


# There and back.


def alike(one: object, other: object) -> bool:
    """Whether two values are the same down to their types, and to the sign of a zero."""
    if isinstance(one, float) and isinstance(other, float):
        return math.copysign(1, one) == math.copysign(1, other) and one == other
    return type(one) is type(other) and one == other


async def test_what_is_json_safe_comes_back_as_it_went(world, world_clock):
    """Through both lanes, both checks and both kinds of frame, at the bounds too."""
    world.entry(ECHO)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        for source in GOOD:
            assert alike(await echo(handle, built(source)), built(source)), source


async def test_what_is_json_safe_comes_back_from_a_blocking_entry(real_world):
    """On real processes only: the memory launcher runs no blocking entries."""
    (real_world.root / "entry.py").write_text(BLOCKING_ECHO)
    async with real_world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        for source in GOOD:
            assert alike(await echo(handle, built(source)), built(source)), source


async def test_start_up_payloads_and_results_may_be_all_that_messages_may(world, world_clock):
    """A result shares its frame with its own name, so that the longest text does not fit."""
    world.entry("""
    async def run(process):
        process.ready()
        return process.payload
    """)
    async with world.quiet_worker() as worker:
        sources = GOOD[:-1] if world.is_virtual else ["nested(64)", "[0] * 99_999"]
        for source in sources:
            handle = await worker.backend_processes.spawn("entry.py", payload=built(source))
            info = await handle.wait_ended()
            assert (info.state, info.error) == ("completed", None), source
            assert alike(handle.result, built(source)), source


async def test_a_payload_of_a_whole_frame_can_start_a_process(world, world_clock):
    """The first frame is the host's own, and what else it says is not taken from the payload's bytes."""
    world.entry("""
    async def run(process):
        process.ready()
        return len(process.payload)
    """)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", payload="x" * (2**24 - 2))
        await handle.wait_ended()
        assert handle.result == 2**24 - 2


# At the sender: the child's side.
async def test_what_is_not_json_safe_is_refused_in_the_child_with_its_path(world, world_clock):
    """`send`, `send_nowait` and `complete` raise in the entry, nothing is sent, and the entry may go on."""
    world.entry(CHILD_TRIES)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", payload=list(BAD))
        info = await handle.wait_ended()
        assert (info.state, info.error) == ("completed", None)
        check_texts(handle.result, BAD.items(), ["payload", "payload", "result"])
    assert world.payloads() == ["after all that"]


async def test_what_is_not_json_safe_is_refused_in_a_blocking_child_too(real_world):
    """On real processes only: the memory launcher runs no blocking entries."""
    (real_world.root / "entry.py").write_text(BLOCKING_CHILD_TRIES)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", payload=list(BAD))
        info = await handle.wait_ended()
        assert (info.state, info.error) == ("completed", None)
        check_texts(handle.result, BAD.items(), ["payload", "result"])
    assert real_world.payloads() == ["after all that"]


RETURNED = ["math.nan", "{'items': [0, 1, 2, {3}]}", "'x' * 2**24", "{1: 'a'}", "cycle()", "'\\ud800'"]


@pytest.mark.parametrize("source", RETURNED)
async def test_a_returned_value_that_may_not_travel_fails_the_process(world, world_clock, source):
    world.entry(RETURNS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", payload=source)
        info = await handle.wait_ended()
    assert (info.state, info.exit_reason, handle.result) == ("failed", "failed", None)
    assert info.error is not None
    assert info.error.startswith("PayloadError: result")
    assert (BAD | {"'x' * 2**24": "more than 16777216"})[source] in info.error
    assert world.payloads() == ["before"]


@pytest.mark.parametrize("source", RETURNED[1:3])
async def test_a_value_returned_by_a_blocking_entry_that_may_not_travel_fails_it(real_world, source):
    """On real processes only: the memory launcher runs no blocking entries."""
    (real_world.root / "entry.py").write_text(RETURNS.replace("async ", "").replace("await ", ""))
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", payload=source)
        info = await handle.wait_ended()
    assert (info.state, info.exit_reason, handle.result) == ("failed", "failed", None)
    assert info.error is not None
    assert info.error.startswith("PayloadError: result")
    assert real_world.payloads() == ["before"]


# A child that lies: the same values as raw frames, past the check at the sender.
RAW_MESSAGES = {
    "not a number": "b'NaN'",
    "infinity": "b'[-Infinity]'",
    "a float out of range": "b'1e999'",
    "a lone surrogate": r"b'\"\\ud800\"'",
    "a lone surrogate as a name": r"b'{\"\\udfff\": 1}'",
    "too deep": "b'[' * 65 + b'1' + b']' * 65",
    "depth 100 000": "b'[' * 100_000",
    "too many values": "b'[' + b'0,' * 99_999 + b'0]'",
    "100 000 digits": "b'1' * 100_000",
    "an integer too large": "b'18446744073709551616'",
    "an integer too small": "b'-9223372036854775809'",
    "no JSON": "b'{oops'",
    "two values": "b'1 2'",
    "nothing": "b''",
    "no UTF-8": r"b'\"\xff\"'",
    "another encoding": "'\"text\"'.encode('utf-16')",
    "a byte more than a frame may have": "b'\"' + b'x' * (2**24 - 1) + b'\"'",
}

RAW_RESULTS = {name: as_result(source) for name, source in RAW_MESSAGES.items() if name != "nothing"}


FOR_REAL = ("not a number", "100 000 digits", "a byte more than a frame may have")
"""Those that real processes say too. What refuses them is the same; what carries them here is sockets."""


def pick(raws):
    return {name: raws[name] for name in FOR_REAL}


async def test_a_child_that_sends_what_is_not_json_safe_ends_as_failed(world, world_clock):
    """Its earlier messages are delivered, its later ones are not trusted, and no other process is disturbed."""
    await refuses_each(world, RAW_MESSAGES if world.is_virtual else pick(RAW_MESSAGES), "messages")


async def test_a_child_that_completes_with_what_is_not_json_safe_ends_as_failed(world, world_clock):
    await refuses_each(world, RAW_RESULTS if world.is_virtual else pick(RAW_RESULTS), "control")


@pytest.mark.parametrize("lane", ["control", "messages"])
async def test_a_child_that_lies_before_it_is_ready_fails_its_spawn(world, world_clock, lane):
    """A frame that is too long cannot be skipped: the next look at that lane finds it again."""
    world.entry(f"""
    async def run(process):
        await {LANES[lane]}.send_pending([b"x" * (2**24 + 1)])
        await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        with pytest.raises(
            spindle.StartupFailedError, match=r"entry\.py .*: .*16777217 .*write it to a file"
        ) as caught:
            await worker.backend_processes.spawn("entry.py")
        assert caught.value.info.state is spindle.ProcessState.FAILED
    assert world.states() == ["starting", "failed"]


@pytest.mark.parametrize("turn", range(8))
async def test_a_child_that_was_ready_before_it_lied_was_ready(virtual_world, autojump_clock, turn):
    """In memory only, where both lanes can be filled before the host looks at either.

    Which lane it looks at first is up to the scheduler, and so this is tried several times.
    """
    from spindle_trio.testing import MemoryLauncher, ScriptedChild

    child = ScriptedChild()
    virtual_world.launcher = lambda: MemoryLauncher({"child": child})
    async with virtual_world.worker() as worker, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def lie():
            await child.started()
            child.ready()
            child.send_raw_message(b"NaN")

        handle = await worker.backend_processes.spawn("child")
        assert (await handle.wait_ended()).state is spindle.ProcessState.FAILED
    assert virtual_world.states() == ["starting", "running", "failed"]


async def test_json_that_says_the_same_in_other_words_is_no_lie(world, world_clock):
    """The wire is any JSON: spaces, escapes and repeated names are allowed."""
    world.entry("""
    async def run(process):
        process.ready()
        lane = process._controls._messages
        for body in (b' [1 , 2.0]\\n', b'"\\\\u00fc\\\\ud83d\\\\ude00"', b'{"a":1,"a":2}', b'1e3', b'-0'):
            await lane.send_pending([body])
        await process.send("honest")
        await process.wait_stop()
    """)
    async with world.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        channel = handle.messages()
        received = [await channel.receive() for _ in range(6)]
        assert received == [[1, 2.0], "ü\U0001f600", {"a": 2}, 1000.0, 0, "honest"]
        assert handle.state is spindle.ProcessState.RUNNING
