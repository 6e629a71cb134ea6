"""Each row of the contract's table of spawn options: its default, its rule, and what breaking it gets."""

from __future__ import annotations

import math
import types

import pytest

import spindle_trio as spindle
from spindle_trio import wire

WAITS = """
async def run(process):
    process.ready()
    await trio.sleep_forever()
"""

NEVER_READY = """
async def run(process):
    await trio.sleep_forever()
"""

TELLS_ITS_FACTS = """
async def run(process):
    process.ready()
    return [process.kind, process.key, process.payload, process.has_payload, process.metadata, process.user_id,
            None if process.heartbeat_timeout == math.inf else process.heartbeat_timeout]
"""


async def facts_of(world, worker, **options):
    handle = await worker.backend_processes.spawn("entry.py", **options)
    await handle.wait_ended()
    return handle.result


# Defaults.


async def test_what_is_left_out_has_its_default(world, world_clock):
    name = world.entry(TELLS_ITS_FACTS)
    async with world.worker(user_id="ada") as worker:
        handle = await worker.backend_processes.spawn(name)
        info = await handle.wait_ended()
        assert handle.result == [name, None, None, False, None, "ada", 15.0]
        assert (info.kind, info.key, info.metadata, info.user_id) == (name, None, None, "ada")
        assert wire.to_json(info).keys().isdisjoint({"key", "metadata", "error"})


async def test_the_startup_timeout_is_15_s_by_default(virtual_world, autojump_clock):
    """In virtual time only: on real processes the test itself would take 15 s."""
    virtual_world.entry(NEVER_READY)
    async with virtual_world.worker() as worker:
        since = autojump_clock.current_time()
        with pytest.raises(spindle.StartupTimeoutError):
            await worker.backend_processes.spawn("entry.py")
        virtual_world.assert_took(since, 15)


async def test_the_heartbeat_timeout_is_15_s_by_default(virtual_world, autojump_clock):
    """In virtual time only, as above."""
    virtual_world.entry(WAITS)
    async with virtual_world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        since = autojump_clock.current_time()
        assert (await handle.wait_ended()).exit_reason is spindle.ExitReason.TIMED_OUT
        virtual_world.assert_took(since, 15)


# Trimming and blanks.


@pytest.mark.parametrize(
    ("given", "kind", "key"),
    [
        ({"kind": "  index \n", "key": "  chat:1 "}, "index", "chat:1"),
        ({"kind": "", "key": ""}, "entry.py", None),
        ({"kind": " \t", "key": "  \n"}, "entry.py", None),
        ({"kind": None, "key": None}, "entry.py", None),
    ],
)
async def test_kind_and_key_are_trimmed_and_blank_means_the_entry_or_none(world, world_clock, given, kind, key):
    world.entry(TELLS_ITS_FACTS)
    async with world.worker() as worker:
        assert (await facts_of(world, worker, **given))[:2] == [kind, key]
    assert {(event.kind, event.key) for event in world.events} == {(kind, key)}


async def test_blank_keys_do_not_collide_and_trimmed_ones_do(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        spawn = worker.backend_processes.spawn
        await spawn("entry.py", key=" ")
        await spawn("entry.py", key="  ")
        await spawn("entry.py", key="a")
        with pytest.raises(spindle.DuplicateKeyError):
            await spawn("entry.py", key=" a\t", kind=" entry.py ")


async def test_the_user_id_is_trimmed_in_an_operator_scoped_worker(world, world_clock):
    world.entry(TELLS_ITS_FACTS)
    async with world.worker(user_id=None) as worker:
        assert (await facts_of(world, worker, user_id="  ada\n"))[5] == "ada"
    assert {event.user_id for event in world.events} == {"ada"}


async def test_the_entry_is_trimmed(world, world_clock):
    world.entry(TELLS_ITS_FACTS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("  entry.py\n")
        assert handle.entry == handle.kind == "entry.py"


# Payload and metadata.


async def test_a_payload_of_none_is_a_payload(world, world_clock):
    """`None` and an omitted payload read alike; `has_payload` tells them apart."""
    world.entry(TELLS_ITS_FACTS)
    async with world.worker() as worker:
        assert (await facts_of(world, worker, payload=None))[2:4] == [None, True]


async def test_payload_and_metadata_are_those_of_the_moment_of_the_call(world, world_clock):
    """Later changes by the caller reach neither the entry, nor the info, nor an event."""
    world.entry("""
    async def run(process):
        process.ready()
        return [process.payload, process.metadata]
    """)
    payload, metadata = {"list": [1]}, {"list": [1]}

    def change(event):
        payload["list"].append(event.state)
        metadata["list"].append(event.state)

    async with world.worker() as worker:
        worker.backend_processes.on_lifecycle(change)
        handle = await worker.backend_processes.spawn("entry.py", payload=payload, metadata=metadata)
        info = await handle.wait_ended()
        assert handle.result == [{"list": [1]}, {"list": [1]}]
        assert info.metadata == {"list": [1]}
    assert all(event.metadata == {"list": [1]} for event in world.events)


# Timeouts.


async def test_the_startup_timeout_given_is_the_one_that_counts(world, world_clock):
    world.entry(NEVER_READY)
    async with world.worker() as worker:
        with pytest.raises(spindle.StartupTimeoutError) as caught:
            await worker.backend_processes.spawn("entry.py", startup_timeout=0.4)
        info = caught.value.info
    assert info.state is spindle.ProcessState.TIMED_OUT
    assert info.ended_at is not None
    lived = (info.ended_at - info.started_at).total_seconds()
    assert lived == pytest.approx(0.4, abs=1e-6 if world.is_virtual else 1)
    assert "entry.py" in str(caught.value)
    assert info.process_id in str(caught.value)
    assert "0.4 s" in str(caught.value)


async def test_the_heartbeat_timeout_given_is_the_one_that_counts(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", heartbeat_timeout=0.3)
        info = await handle.wait_ended()
    assert info.state is spindle.ProcessState.TIMED_OUT
    assert info.ended_at is not None
    assert info.last_heartbeat_at is not None
    silent = (info.ended_at - info.last_heartbeat_at).total_seconds()
    assert silent == pytest.approx(0.3, abs=1e-6 if world.is_virtual else 1)


async def test_an_infinite_heartbeat_timeout_is_no_watchdog(virtual_world, autojump_clock):
    """In virtual time only: no real test could wait for what never happens."""
    virtual_world.entry("""
    async def run(process):
        process.ready()
        assert process.heartbeat_timeout == math.inf
        await trio.sleep(200)
    """)
    async with virtual_world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", heartbeat_timeout=math.inf)
        assert (await handle.wait_ended()).state is spindle.ProcessState.COMPLETED


async def test_an_infinite_heartbeat_timeout_reads_so_in_the_entry(world, world_clock):
    world.entry(TELLS_ITS_FACTS)
    async with world.worker() as worker:
        assert (await facts_of(world, worker, heartbeat_timeout=math.inf))[6] is None


async def test_integers_are_seconds_too(world, world_clock):
    world.entry(TELLS_ITS_FACTS)
    async with world.worker() as worker:
        assert (await facts_of(world, worker, heartbeat_timeout=7, startup_timeout=9))[6] == 7.0


# Replacing.


async def test_replace_existing_without_a_key_does_nothing(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        spawn = worker.backend_processes.spawn
        first = await spawn("entry.py")
        second = await spawn("entry.py", replace_existing=True)
        assert first.state is second.state is spindle.ProcessState.RUNNING
        assert len(await worker.backend_processes.list()) == 2


# What is refused, from Python.

REFUSED = [
    ("startup_timeout", 0, ValueError),
    ("startup_timeout", -1, ValueError),
    ("startup_timeout", math.inf, ValueError),
    ("startup_timeout", math.nan, ValueError),
    ("startup_timeout", "15", ValueError),
    ("startup_timeout", None, ValueError),
    ("startup_timeout", True, ValueError),
    ("startup_timeout", 10**400, ValueError),
    ("heartbeat_timeout", 0, ValueError),
    ("heartbeat_timeout", -0.5, ValueError),
    ("heartbeat_timeout", -math.inf, ValueError),
    ("heartbeat_timeout", math.nan, ValueError),
    ("heartbeat_timeout", "15", ValueError),
    ("heartbeat_timeout", None, ValueError),
    ("heartbeat_timeout", True, ValueError),
    ("heartbeat_timeout", 10**400, ValueError),
    ("kind", 3, TypeError),
    ("kind", b"index", TypeError),
    ("kind", "\ud800", spindle.PayloadError),
    ("key", 3, TypeError),
    ("key", ["a"], TypeError),
    ("key", "a\udfff", spindle.PayloadError),
    ("user_id", 3, TypeError),
    ("metadata", [1], spindle.PayloadError),
    ("metadata", "text", spindle.PayloadError),
    ("metadata", 3, spindle.PayloadError),
    ("metadata", types.MappingProxyType({"a": 1}), spindle.PayloadError),
    ("metadata", {1: "a"}, spindle.PayloadError),
    ("metadata", {"a": {1, 2}}, spindle.PayloadError),
    ("payload", {1, 2}, spindle.PayloadError),
    ("replace_existing", 1, TypeError),
    ("replace_existing", None, TypeError),
    ("replace_existing", "yes", TypeError),
    ("entry", None, spindle.EntryError),
    ("entry", 3, spindle.EntryError),
    ("entry", b"entry.py", spindle.EntryError),
]


async def test_an_option_out_of_its_range_is_refused_by_name_and_nothing_is_launched(world, world_clock):
    """Each row of the table in one host, with a key: what a refusal leaves behind would show in the next row."""
    world.entry(WAITS)
    async with world.worker() as worker:
        processes = worker.backend_processes
        for option, value, error in REFUSED:
            arguments = {"entry": "entry.py", "key": "held", "replace_existing": True} | {option: value}
            with pytest.raises(error, match=option) as caught:
                await processes.spawn(**arguments)
            assert type(caught.value) is error, (option, value)
            with pytest.raises(error, match=option):
                async with processes.open(**arguments):
                    raise AssertionError("a refused process has no block")
            assert await processes.list() == [], (option, value)
        assert world.events == []
        await processes.spawn("entry.py", key="held")


async def test_a_refused_spawn_leaves_a_process_with_its_key_alone(world, world_clock):
    """Options are checked before the old process is touched, however it is wanted to be replaced."""
    world.entry(WAITS)
    async with world.worker() as worker:
        held = await worker.backend_processes.spawn("entry.py", key="held", kind="entry.py")
        for option, value, error in REFUSED:
            if option in ("key", "kind"):
                continue
            arguments = {"entry": "entry.py", "kind": "entry.py", "key": "held", "replace_existing": True}
            with pytest.raises(error):
                await worker.backend_processes.spawn(**(arguments | {option: value}))
        assert held.state is spindle.ProcessState.RUNNING
        assert world.states() == ["starting", "running"]


async def test_a_surrogate_in_a_user_id_is_refused_by_name(world, world_clock):
    """No frame could carry it: without this check the launch itself would break."""
    world.entry(WAITS)
    async with world.worker(user_id=None) as worker:
        with pytest.raises(spindle.PayloadError, match="user_id"):
            await worker.backend_processes.spawn("entry.py", user_id="a\ud800")
    assert world.events == []
    async with world.host() as host:
        with pytest.raises(ValueError, match="user_id"):
            host.open_worker("w", user_id="a\ud800")


@pytest.mark.parametrize("user_id", ["", "  ", 3])
async def test_a_worker_without_a_user_has_none_and_not_a_blank_one(virtual_world, autojump_clock, user_id):
    """In virtual time only: no process takes part."""
    async with virtual_world.host() as host:
        with pytest.raises(ValueError, match="user_id"):
            host.open_worker("w", user_id=user_id)


async def test_an_id_that_cannot_be_made_leaves_the_key_free(world, world_clock):
    """`new_process_id` is the caller's, and it is called once the key has been claimed."""
    world.entry(WAITS)
    ids = iter([RuntimeError("out of ids"), "p-1"])

    def new_process_id():
        value = next(ids)
        if isinstance(value, Exception):
            raise value
        return value

    async with world.worker(new_process_id=new_process_id) as worker:
        with pytest.raises(RuntimeError, match="out of ids"):
            await worker.backend_processes.spawn("entry.py", key="held")
        assert (await worker.backend_processes.spawn("entry.py", key="held")).process_id == "p-1"


async def test_the_longest_timeouts_that_there_are_can_be_had(world, world_clock):
    """In milliseconds, as a child is told, they would be infinite."""
    world.entry(TELLS_ITS_FACTS)
    async with world.worker() as worker:
        assert (await facts_of(world, worker, heartbeat_timeout=1e308, startup_timeout=1e308))[6] is None


@pytest.mark.parametrize(("option", "value"), [("grace_period", -1), ("grace_period", math.inf), ("grace_period", "5")])
def test_a_host_refuses_a_grace_period_that_is_none(option, value):
    with pytest.raises(ValueError, match=option):
        spindle.open_host(**{option: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_a_host_refuses_a_limit_that_is_none(value):
    with pytest.raises(ValueError, match="max_processes"):
        spindle.open_host(max_processes=value)


# The same table on the wire.


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [
        (999, 1.0),
        (1_000, 1.0),
        (1_000.5, 1.001),
        (2_345, 2.345),
        (2_345.4, 2.345),
        (120_000, 120.0),
        (120_001, 120.0),
        (0, 1.0),
        (-5, 1.0),
        (math.nan, 15.0),
        (math.inf, 15.0),
        (-math.inf, 15.0),
        ("15", 15.0),
        (None, 15.0),
        (True, 15.0),
    ],
)
def test_the_startup_timeout_is_rounded_and_clamped_on_the_wire(milliseconds, seconds):
    options = wire.from_json({"entry": "e.py", "startupTimeoutMs": milliseconds}, spindle.SpawnOptions)
    assert options.startup_timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [
        (1, 0.001),
        (0.5, 0.001),
        (2_345.5, 2.346),
        (120_001, 120.0),
        (0, math.inf),
        (0.4, math.inf),
        (-7, math.inf),
        (math.nan, 15.0),
        (math.inf, 15.0),
        (None, 15.0),
    ],
)
def test_the_heartbeat_timeout_is_rounded_and_clamped_on_the_wire(milliseconds, seconds):
    options = wire.from_json({"entry": "e.py", "heartbeatTimeoutMs": milliseconds}, spindle.SpawnOptions)
    assert options.heartbeat_timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", 3),
        ("kind", None),
        ("key", None),
        ("metadata", None),
        ("metadata", [1]),
        ("userId", 3),
        ("replaceExisting", 1),
        ("entry", None),
    ],
)
def test_a_wrong_type_on_the_wire_is_refused_by_name(field, value):
    with pytest.raises(spindle.PeerProtocolError, match=field):
        wire.from_json({"entry": "e.py"} | {field: value}, spindle.SpawnOptions)
