"""The bounds on payloads, names and texts: the reference's, at each bound and one over it, and those by default."""

from __future__ import annotations

import pytest
import trio

import spindle_trio as spindle
from support.payload import (
    CHILD_TRIES,
    ECHO,
    LIAR,
    PRELUDE,
    REFERENCE,
    RETURNS,
    as_result,
    built,
    check_texts,
    echo,
    refuses_each,
)


async def test_the_reference_limits_hold_at_the_host(world, world_clock):
    world.entry(ECHO)
    async with world.quiet_worker(limits=spindle.REFERENCE_LIMITS) as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        for at, over, says in REFERENCE:
            assert await echo(handle, built(at)) == built(at), at
            with pytest.raises(spindle.PayloadError, match=says):
                await handle.send(built(over))
            with pytest.raises(spindle.PayloadError, match=says):
                await worker.backend_processes.spawn("entry.py", payload=built(over))
        assert world.states() == ["starting", "running"]


async def test_the_reference_limits_hold_in_the_child(world, world_clock):
    world.entry(CHILD_TRIES)
    async with world.worker(limits=spindle.REFERENCE_LIMITS) as worker:
        over = [(over, says) for _, over, says in REFERENCE]
        handle = await worker.backend_processes.spawn("entry.py", payload=[source for source, _ in over])
        await handle.wait_ended()
        check_texts(handle.result, over, ["payload", "payload", "result"])


async def test_the_reference_limits_hold_for_results(world, world_clock):
    world.entry(RETURNS)
    async with world.worker(limits=spindle.REFERENCE_LIMITS) as worker:
        for at, over, says in REFERENCE if world.is_virtual else REFERENCE[3:4]:
            handle = await worker.backend_processes.spawn("entry.py", payload=at)
            assert (await handle.wait_ended()).error is None
            assert handle.result == built(at)
            handle = await worker.backend_processes.spawn("entry.py", payload=over)
            info = await handle.wait_ended()
            assert info.state is spindle.ProcessState.FAILED
            assert says in (info.error or "")


async def test_a_child_that_lies_over_the_reference_limits_ends_as_failed(world, world_clock):
    """The bound is exact on both lanes: what surrounds a result in its frame gives it no room."""
    chosen = REFERENCE if world.is_virtual else REFERENCE[3:4]
    # Spelled out, such a body would itself be too long a text for a payload: the entry builds it by itself.
    raws = {over: f"__import__('json').dumps({over}, ensure_ascii=False).encode()" for _, over, _ in chosen}
    source = PRELUDE + LIAR
    write = world.entry
    world.entry = lambda text, name="entry.py": write(source if text is LIAR else text, name)
    await refuses_each(world, raws, "messages", limits=spindle.REFERENCE_LIMITS)
    wrapped = {over: as_result(raw) for over, raw in raws.items()}
    await refuses_each(world, wrapped, "control", limits=spindle.REFERENCE_LIMITS)


@pytest.mark.parametrize(("option", "most"), [("kind", 128), ("key", 256)])
async def test_kind_and_key_are_bounded_in_bytes(world, world_clock, option, most):
    """Trimmed characters do not count, nor does a default kind."""
    world.entry(ECHO)
    limits = spindle.REFERENCE_LIMITS
    async with world.quiet_worker(limits=limits) as worker:
        spawn = worker.backend_processes.spawn
        for over in ("x" * (most + 1), "ü" * (most // 2) + "x"):
            with pytest.raises(spindle.PayloadError, match=rf"{option}: {most + 1} bytes, more than {most}"):
                await spawn("entry.py", **{option: over})
        assert world.events == []
        handle = await spawn("entry.py", **{option: " " + "ü" * (most // 2) + " "})
        assert getattr(handle, option) == "ü" * (most // 2)


async def test_the_entry_is_bounded_in_bytes(world, world_clock):
    world.entry(ECHO, "entry.py")
    world.entry(ECHO, "entry2.py")
    async with world.quiet_worker(limits=spindle.Limits(entry_bytes=8)) as worker:
        with pytest.raises(spindle.PayloadError, match="entry: 9 bytes, more than 8"):
            await worker.backend_processes.spawn("entry2.py")
        assert world.events == []
        await worker.backend_processes.spawn(" entry.py ")


async def test_an_entry_of_4096_bytes_is_the_reference_s_longest(virtual_world, autojump_clock):
    """In memory only: no file system has names as long as that."""
    from spindle_trio.testing import MemoryLauncher

    async def wait(process):
        process.ready()
        await trio.sleep_forever()

    names = ["x" * 4_096, "x" * 4_097]
    virtual_world.launcher = lambda: MemoryLauncher(dict.fromkeys(names, wait))
    async with virtual_world.quiet_worker(limits=spindle.REFERENCE_LIMITS) as worker:
        handle = await worker.backend_processes.spawn(names[0])
        assert handle.kind == names[0]  # a kind that is the entry is bounded as the entry is
        with pytest.raises(spindle.PayloadError, match="entry: 4097 bytes, more than 4096"):
            await worker.backend_processes.spawn(names[1])


async def test_the_reason_of_a_stop_is_bounded_and_a_stop_over_it_is_none(world, world_clock):
    world.entry("""
    async def run(process):
        process.ready()
        notice = await process.wait_stop()
        return notice.reason
    """)
    async with world.quiet_worker(limits=spindle.REFERENCE_LIMITS) as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        for reason in ("x" * 4_097, "ü" * 2_048 + "x", "\ud800"):
            with pytest.raises(spindle.PayloadError, match="reason"):
                await handle.stop(reason)
            with pytest.raises(spindle.PayloadError, match="reason"):
                await worker.backend_processes.stop(handle.process_id, reason=reason)
        assert handle.state is spindle.ProcessState.RUNNING
        await handle.stop("ü" * 2_048)
        assert handle.result == "ü" * 2_048


@pytest.mark.parametrize(
    ("source", "is_kept"),
    [
        ("process.fail('x' * 4_096)", True),
        ("process.fail('  ' + '\\u00fc' * 2_048 + ' ')", True),
        ("process.fail('x' * 4_097)", False),
        ("process.fail('\\u00fc' * 2_048 + 'x')", False),
    ],
)
async def test_an_error_over_the_reference_s_limit_is_replaced_by_a_general_text(world, world_clock, source, is_kept):
    world.entry(f"""
    async def run(process):
        process.ready()
        {source}
        await trio.sleep_forever()
    """)
    async with world.worker(limits=spindle.REFERENCE_LIMITS) as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        info = await handle.wait_ended()
    assert info.state is spindle.ProcessState.FAILED
    assert info.error is not None
    assert info.error == world.events[-1].error.partition("\n")[0]
    assert len(world.events[-1].error.encode()) <= 4_096
    if is_kept:
        assert len(info.error.encode()) == 4_096
    else:
        assert info.error == "the process failed and gave no reason"


async def test_errors_are_kept_whole_where_no_limit_is_set(world, world_clock):
    world.entry("""
    async def run(process):
        process.ready()
        process.fail("x" * 10_000)
        await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        assert (await handle.wait_ended()).error == "x" * 10_000


async def test_the_smallest_limits_leave_the_protocol_itself_alone(world, world_clock):
    """Limits on payloads bound payloads: the frames around them have names, depth and entries of their own."""
    world.entry("""
    async def run(process):
        process.ready()
        await process.send([1])
        return [1]
    """)
    limits = spindle.Limits(depth=1, values=2, text_bytes=1, container_entries=1)
    async with world.worker(limits=limits) as worker:
        handle = await worker.backend_processes.spawn("entry.py", payload=[1], key="key")
        info = await handle.wait_ended()
        assert (info.state, info.error, handle.result) == ("completed", None, [1])
    assert world.payloads() == [[1]]


def test_the_reference_limits_are_those_of_the_contract():
    limits = spindle.REFERENCE_LIMITS
    assert (limits.text_bytes, limits.depth, limits.values, limits.container_entries) == (256 * 1024, 32, 10_000, 1_000)
    assert (limits.kind_bytes, limits.key_bytes, limits.entry_bytes) == (128, 256, 4_096)
    assert (limits.reason_bytes, limits.error_bytes) == (4_096, 4_096)


def test_the_default_limits_are_those_of_the_contract():
    limits = spindle.Limits()
    assert (limits.frame_bytes, limits.depth, limits.values) == (2**24, 64, 100_000)
    assert (limits.inbox_messages, limits.inbox_bytes, limits.outbox_bytes) == (1_024, 4 * 2**20, 2**20)
    assert (limits.lifecycle_events, limits.ending_bytes, limits.frame_seconds) == (1_024, 64 * 2**20, 5)
    optional = ("text", "kind", "key", "entry", "reason", "error")
    assert {getattr(limits, f"{name}_bytes") for name in optional} | {limits.container_entries} == {None}
