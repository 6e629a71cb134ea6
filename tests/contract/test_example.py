"""The example of the design runs as printed, apart from its own helpers `load` and `index`."""

from __future__ import annotations

import inspect

import pytest
import trio
from trio.testing import MockClock

import spindle_trio as spindle
from spindle_trio import ProcessState
from spindle_trio.child import ProcessContext
from spindle_trio.testing import MemoryLauncher

HOST_PROGRAM = """
import trio
import spindle_trio as spindle

async def main() -> None:
    async with (
        spindle.open_host() as host,
        host.open_worker("indexer", root="extensions/indexer", user_id="ada") as worker,
    ):
        try:
            handle = await worker.backend_processes.spawn(
                "dist/indexer.py", key="chat:42", payload={"chat": 42},
                startup_timeout=10, heartbeat_timeout=15, replace_existing=True,
            )
        except spindle.StartupTimeoutError as error:
            print(f"{error.info.entry} never became ready")
            return
        await handle.send({"type": "start"})
        async for payload in handle.messages():      # ends when the process does
            print("indexed", payload)
        info = await handle.wait_ended()
        print(info.state, info.exit_reason, handle.result)
"""

INDEXER = """
from spindle_trio.child import ProcessContext

async def run(process: ProcessContext) -> int:
    documents = await load(process.payload)
    process.ready()
    for number, document in enumerate(documents):
        await index(document)
        process.heartbeat()
        await process.send({"done": number})
    return len(documents)
"""

HELPERS = """
import trio

async def load(payload):
    await trio.sleep(0)
    return [f"{payload} {number}" for number in range(3)]

async def index(document):
    await trio.sleep(0.05)
"""

SLOW_HELPERS = """
import trio

async def load(payload):
    await trio.sleep_forever()
"""


@pytest.fixture
def program(real_world, monkeypatch):
    """Lay the example out as it is printed, and return what runs its `main` with the given helpers."""
    real_world.root.joinpath("extensions", "indexer", "dist").mkdir(parents=True)
    monkeypatch.chdir(real_world.root)

    async def run(helpers, host_program=HOST_PROGRAM):
        entry = real_world.root / "extensions" / "indexer" / "dist" / "indexer.py"
        entry.write_text(helpers + INDEXER)
        names: dict[str, object] = {}
        exec(compile(host_program, "host.py", "exec"), names)  # source text of this file
        main = names["main"]
        assert inspect.iscoroutinefunction(main)
        with trio.fail_after(30):
            await main()

    return run


async def test_the_example_indexes_and_says_what_became_of_it(program, capsys):
    """On real processes only, since that is what it opens: `open_host()` without a launcher."""
    await program(HELPERS)
    assert capsys.readouterr().out.splitlines() == [
        "indexed {'done': 0}",
        "indexed {'done': 1}",
        "indexed {'done': 2}",
        "completed completed 3",
    ]


@pytest.mark.slow
async def test_the_example_says_when_its_entry_never_became_ready(program, capsys):
    """On real processes only, as above. Ten seconds are shortened: all else is as printed."""
    await program(SLOW_HELPERS, HOST_PROGRAM.replace("startup_timeout=10", "startup_timeout=0.5"))
    assert capsys.readouterr().out == "dist/indexer.py never became ready\n"


# The design's example of a test, in virtual time, as it is printed.


async def test_a_wedged_process_is_killed(autojump_clock: MockClock) -> None:
    async def wedged(process: ProcessContext) -> None:
        process.ready()
        await trio.sleep_forever()

    async with (
        spindle.open_host(MemoryLauncher({"wedged": wedged})) as host,
        host.open_worker("t", user_id="ada") as worker,
    ):
        handle = await worker.backend_processes.spawn("wedged", heartbeat_timeout=15)
        before = trio.current_time()
        info = await handle.wait_ended()
        assert info.state is ProcessState.TIMED_OUT
        assert trio.current_time() - before == 15
