"""What may travel as a payload, and what a payload that may not gets: at the sender, and from a child that lies.

The values are written down as source text, since entries have to build the same ones that the host side builds.
"""

from __future__ import annotations

import math

import pytest
import trio

import spindle_trio as spindle

PRELUDE = """
import enum, math
class Colour(enum.Enum):
    RED = "red"
class Level(enum.IntEnum):
    LOW = 1
class Word(enum.StrEnum):
    HELLO = "hello"
class Number(int): pass
class Text(str): pass
class Row(list): pass
class Table(dict): pass
class Real(float): pass
def nested(depth, value=1):
    for _ in range(depth):
        value = [value]
    return value
def cycle():
    value = []
    value.append(value)
    return value
def cycle_of_dicts():
    value = {}
    value["self"] = {"other": value}
    return value
"""

BAD = {
    "math.nan": "nan is not JSON-safe",
    "[1, -math.inf]": "[1]: -inf is not JSON-safe",
    "b'bytes'": "bytes is not JSON-safe",
    "bytearray(3)": "bytearray is not JSON-safe",
    "(1, 2)": "tuple is not JSON-safe",
    "{'items': [0, 1, 2, {3}]}": ".items[3]: set is not JSON-safe",
    "{'items': [0, 1, 2, {3}]}['items']": "[3]: set is not JSON-safe",
    "frozenset()": "frozenset is not JSON-safe",
    "1j": "complex is not JSON-safe",
    "object()": "object is not JSON-safe",
    "print": "builtin_function_or_method is not JSON-safe",
    "{'a': Colour.RED}": ".a: Colour is not JSON-safe",
    "Level.LOW": "Level is not JSON-safe",
    "Word.HELLO": "Word is not JSON-safe",
    "Number(3)": "Number is not JSON-safe",
    "Text('x')": "Text is not JSON-safe",
    "Real(1.5)": "Real is not JSON-safe",
    "Row()": "Row is not JSON-safe",
    "Table()": "Table is not JSON-safe",
    "{1: 'a'}": "the key 1 is a int",
    "{None: 'a'}": "the key None is a NoneType",
    "{'a b': {Text('x'): 1}}": "['a b']: the key 'x' is a Text",
    "cycle()": "nested more than 64 deep",
    "cycle_of_dicts()": "nested more than 64 deep",
    "nested(65)": "nested more than 64 deep",
    "[0] * 100_000": "more than 100000 values",
    "[[0] * 50_000] * 2": "more than 100000 values",
    "'x' * (2**20 - 1)": "more than 1048576",
    "'\\ud800'": "lone surrogate",
    "['ok', 'half \\udfff']": "[1]: the text has a lone surrogate",
    "{'\\ud800': 1}": "lone surrogate",
    "2**64": "integer",
    "{'n': -2**63 - 1}": ".n: the integer",
    "10**5000": "integer",
}

GOOD = [
    "None",
    "True",
    "False",
    "0",
    "-2**63",
    "2**64 - 1",
    "1.5",
    "-0.0",
    "5e-324",
    "1.7976931348623157e308",
    "''",
    "'\\0 \\n \\u2028 ü \\U0001f600'",
    "[]",
    "{}",
    "{'': [None, {'a.b': [[], {}]}], 'type': 'stop'}",
    "nested(64)",
    "[0] * 99_999",
    "'x' * (2**20 - 2)",
]

REFERENCE = [
    ("'x' * 2**18", "'x' * (2**18 + 1)", "more than 262144 bytes of text"),
    ("'\\u00fc' * 2**17", "'\\u00fc' * 2**17 + 'x'", "more than 262144 bytes of text"),
    ("{'name': ['x' * (2**18 - 4)]}", "{'name': ['x' * (2**18 - 3)]}", "more than 262144 bytes of text"),
    ("['x' * 2**17] * 2", "['x' * 2**17] * 2 + ['x']", "more than 262144 bytes of text"),
    ("[0] * 1_000", "[0] * 1_001", "1001 entries"),
    ("dict.fromkeys(map(str, range(1_000)))", "dict.fromkeys(map(str, range(1_001)))", "1001 entries"),
    ("nested(32)", "nested(33)", "nested more than 32 deep"),
    ("[[0] * 999] * 9 + [[0] * 998]", "[[0] * 999] * 10", "more than 10000 values"),
]


def built(source: str) -> object:
    """Build a value from its source text, as the entries do."""
    names: dict[str, object] = {}
    exec(PRELUDE, names)  # source text of this file
    return eval(source, names)  # noqa: S307  # as above


ECHO = """
async def run(process):
    process.ready()
    process.beat_while_running()
    async for payload in process.messages():
        await process.send(payload)
"""

BLOCKING_ECHO = """
def run(process):
    process.ready()
    while True:
        process.send(process.receive())
"""


async def echo(handle, payload):
    """Send a payload to an echo, and return what comes back."""
    channel = handle.messages()
    await handle.send(payload)
    answer = await channel.receive()
    channel.close()
    return answer


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
        for metadata in ({"m": built("nested(64)")}, {"m": "x" * 2**20}, {"m": built("cycle()")}):
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
        handle = await worker.backend_processes.spawn("entry.py", payload="x" * (2**20 - 2))
        await handle.wait_ended()
        assert handle.result == 2**20 - 2


# At the sender: the child's side.

CHILD_TRIES = (
    PRELUDE
    + """
async def run(process):
    process.ready()
    texts = []
    for number, source in enumerate(process.payload):
        value = eval(source)
        for way in (process.send, process.send_nowait, process.complete):
            try:
                outcome = way(value)
                if outcome is not None:
                    await outcome
                texts.append("nothing was raised")
            except ValueError as error:
                texts.append(f"{type(error).__name__}: {error}")
    await process.send("after all that")
    return texts
"""
)

BLOCKING_CHILD_TRIES = (
    CHILD_TRIES.replace("async def", "def")
    .replace("process.send_nowait, ", "")
    .replace("await outcome", "pass")
    .replace("await ", "")
)


def check_texts(texts, sources_and_says, ways):
    assert len(texts) == len(ways) * len(sources_and_says)
    for number, (source, says) in enumerate(sources_and_says):
        for text, name in zip(texts[number * len(ways) :], ways, strict=False):
            assert text.startswith(f"PayloadError: {name}"), (source, text)
            assert says in text, (source, text)


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


RETURNS = (
    PRELUDE
    + """
async def run(process):
    process.ready()
    await process.send("before")
    return eval(process.payload)
"""
)

RETURNED = ["math.nan", "{'items': [0, 1, 2, {3}]}", "'x' * 2**20", "{1: 'a'}", "cycle()", "'\\ud800'"]


@pytest.mark.parametrize("source", RETURNED)
async def test_a_returned_value_that_may_not_travel_fails_the_process(world, world_clock, source):
    world.entry(RETURNS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn("entry.py", payload=source)
        info = await handle.wait_ended()
    assert (info.state, info.exit_reason, handle.result) == ("failed", "failed", None)
    assert info.error is not None
    assert info.error.startswith("PayloadError: result")
    assert (BAD | {"'x' * 2**20": "more than 1048576"})[source] in info.error
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

LIAR = """
async def run(process):
    process.ready()
    lane = process._controls._messages if process.kind == "messages" else process._controls._control
    await process.send("before")
    await lane.send_pending([eval(process.payload)])
    await trio.sleep_forever()
"""

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
    "a byte more than a frame may have": "b'\"' + b'x' * (2**20 - 1) + b'\"'",
}


def as_result(body):
    """Write the source text of a `complete` frame around the source text of a result's JSON."""
    return 'b\'{"type":"complete","messages":1,"result":\' + (' + body + ") + b'}'"


RAW_RESULTS = {name: as_result(source) for name, source in RAW_MESSAGES.items() if name != "nothing"}


FOR_REAL = ("not a number", "100 000 digits", "a byte more than a frame may have")
"""Those that real processes say too. What refuses them is the same; what carries them here is sockets."""


def pick(raws):
    return {name: raws[name] for name in FOR_REAL}


async def refuses_each(world, raws, kind, **options):
    """Let a process say each of these, and see it fail for it while another one goes on."""
    world.entry(LIAR)
    world.entry(ECHO, "echo.py")
    async with world.quiet_worker(**options) as worker:
        honest = await worker.backend_processes.spawn("echo.py")
        for name, raw in raws.items():
            liar = await worker.backend_processes.spawn("entry.py", kind=kind, payload=raw)
            channel = liar.messages()
            info = await liar.wait_ended()
            assert (info.state, info.exit_reason, liar.result) == ("failed", "failed", None), name
            assert info.error is not None
            assert info.error.startswith("broke the protocol: "), (name, info.error)
            assert len(info.error) < 1_000, name
            assert [payload async for payload in channel] == ["before"], name
        assert await echo(honest, "undisturbed") == "undisturbed"
        assert honest.state is spindle.ProcessState.RUNNING


async def test_a_child_that_sends_what_is_not_json_safe_ends_as_failed(world, world_clock):
    """What it sent before is delivered, nothing that came after is believed, and nobody else is disturbed."""
    await refuses_each(world, RAW_MESSAGES if world.is_virtual else pick(RAW_MESSAGES), "messages")


async def test_a_child_that_completes_with_what_is_not_json_safe_ends_as_failed(world, world_clock):
    await refuses_each(world, RAW_RESULTS if world.is_virtual else pick(RAW_RESULTS), "control")


@pytest.mark.parametrize("lane", ["control", "messages"])
async def test_a_child_that_lies_before_it_is_ready_fails_its_spawn(world, world_clock, lane):
    """Frames that are too long cannot be passed over: whoever looks at that lane again finds the same one."""
    world.entry(f"""
    async def run(process):
        await process._controls._{lane}.send_pending([b"x" * (2**20 + 1)])
        await trio.sleep_forever()
    """)
    async with world.worker() as worker:
        with pytest.raises(spindle.StartupFailedError, match=r"entry\.py .*broke the protocol: .*1048577") as caught:
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
    """The wire is JSON, whoever writes it: spaces, escapes and repeated names are allowed."""
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


# The reference's limits, at the bound and one over it.


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
    """What is trimmed away does not count, and neither does a kind that nobody gave."""
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
        ("raise ValueError('x' * 4_097)", False),
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
    assert info.error == world.events[-1].error
    assert info.error is not None
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
    assert (limits.frame_bytes, limits.depth, limits.values) == (2**20, 64, 100_000)
    assert (limits.inbox_messages, limits.inbox_bytes, limits.outbox_bytes) == (1_024, 4 * 2**20, 2**20)
    assert (limits.lifecycle_events, limits.ending_bytes, limits.frame_seconds) == (1_024, 64 * 2**20, 5)
    optional = ("text", "kind", "key", "entry", "reason", "error")
    assert {getattr(limits, f"{name}_bytes") for name in optional} | {limits.container_entries} == {None}
