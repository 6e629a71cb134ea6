"""Shared by the contract tests of payloads and their limits: values as source text, and entries that send them.

The values are written down as source text, since entries have to build the same ones that the host side builds.
"""

from __future__ import annotations

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
class Blob(bytes): pass
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
    "Blob(b'bytes')": "Blob is not JSON-safe",
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
    "{1: 'a'}": "the key 1 is an int",
    "{None: 'a'}": "the key None is a NoneType",
    "{'a b': {Text('x'): 1}}": "['a b']: the key 'x' is a Text",
    "cycle()": "nested more than 64 deep",
    "cycle_of_dicts()": "nested more than 64 deep",
    "nested(65)": "nested more than 64 deep",
    "[0] * 100_000": "more than 100000 values",
    "[[0] * 50_000] * 2": "more than 100000 values",
    "'x' * (2**24 - 1)": "more than 16777216",
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


RETURNS = (
    PRELUDE
    + """
async def run(process):
    process.ready()
    await process.send("before")
    return eval(process.payload)
"""
)


LIAR = """
async def run(process):
    process.ready()
    lane = process._controls._messages if process.kind == "messages" else process._controls._control_out._lane
    await process.send("before")
    await lane.send_pending([eval(process.payload)])
    await trio.sleep_forever()
"""


def as_result(body):
    """Write the source text of a `complete` frame around the source text of a result's JSON."""
    return 'b\'{"type":"complete","messages":1,"result":\' + (' + body + ") + b'}'"


async def refuses_each(world, raws, kind, **options):
    """Let a process send each of these, and see it fail for it while another one goes on."""
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
