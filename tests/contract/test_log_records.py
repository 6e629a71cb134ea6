"""Log records about a process identify it in attributes, so that nobody has to parse their text."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from spindle_trio import Limits, ProcessHandle

SENDS = """
async def run(process):
    process.ready()
    for n in range(20):
        await process.send(n)
"""
PRINTS = """
import sys
def run(process):
    process.ready()
    print("said")
    print("complained", file=sys.stderr)
"""


def about(record: logging.LogRecord) -> dict[str, object]:
    """Pick the documented attributes out of a record."""
    return {
        name: value
        for name, value in vars(record).items()
        if name in {"process_id", "entry", "kind", "key", "user_id", "worker", "stream"}
    }


async def run_logged(world: Any, entry: str, **host: Any) -> dict[str, object]:
    """Run an entry to its end while nobody reads its messages, and return the expected attributes of its records."""
    async with world.quiet_worker(**host) as worker:
        handle = await worker.backend_processes.spawn(entry, kind="reader", key="k1")
        await handle.wait_ended()
    return expected_of(handle)


def expected_of(handle: ProcessHandle) -> dict[str, object]:
    info = handle.info
    return {
        "process_id": info.process_id,
        "entry": info.entry,
        "kind": "reader",
        "key": "k1",
        "user_id": "ada",
        "worker": "tests",
    }


async def test_what_is_printed_is_logged_with_the_process_and_the_stream(
    real_world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spindle_trio.process")
    expected = await run_logged(real_world, real_world.blocking_entry(PRINTS))
    records = {record.getMessage().partition(": ")[2]: about(record) for record in caplog.records}
    assert records == {
        "said": {**expected, "stream": "stdout"},
        "complained": {**expected, "stream": "stderr"},
    }


async def test_dropped_messages_are_logged_with_the_process(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    expected = await run_logged(world, world.entry(SENDS), limits=Limits(inbox_messages=5))
    (record,) = [record for record in caplog.records if "being dropped" in record.getMessage()]
    assert about(record) == expected


@pytest.mark.parametrize("what", ["on_message", "on_lifecycle"])
async def test_a_handler_that_raises_is_logged_with_the_process(
    world: Any, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    entry = world.entry(SENDS)

    def fail(_: object) -> None:
        raise ValueError("no")

    async with world.worker() as worker:
        getattr(worker.backend_processes, what)(fail)
        handle = await worker.backend_processes.spawn(entry, kind="reader", key="k1")
        await handle.wait_ended()
    records = [record for record in caplog.records if record.name == "spindle_trio.subscriptions"]
    assert records
    for record in records:
        assert about(record) == expected_of(handle)
