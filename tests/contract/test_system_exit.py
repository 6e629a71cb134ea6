"""`SystemExit` counts as returning `None` or as an exit without `complete`, by its code; `os._exit` is always one."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from trio.testing import MockClock

from spindle_trio import ExitReason, ProcessHandle, ProcessState
from support.contract import run_to_end

COMPLETES = [
    "sys.exit()",
    "sys.exit(0)",
    "raise SystemExit(None)",
    "raise BaseExceptionGroup('', [SystemExit(0)])",
    "raise BaseExceptionGroup('', [SystemExit(0), BaseExceptionGroup('', [SystemExit()])])",
]
EXITS = {
    "sys.exit(3)": 3,
    "sys.exit('out of paper')": 1,
    "raise BaseExceptionGroup('', [SystemExit(0), BaseExceptionGroup('', [SystemExit(3)])])": 3,
}
"""With the code that the process exits with."""
FAILS = "raise BaseExceptionGroup('both', [SystemExit(0), LookupError('no book')])"

ASYNC = "async def run(process):\n    process.ready()\n    await process.send('last')\n    {}\n"
BLOCKING = "import os, sys\ndef run(process):\n    process.ready()\n    process.send('last')\n    {}\n"


both_flavours = pytest.mark.parametrize(
    ("template", "world"),
    [
        (ASYNC, "memory"),
        pytest.param(ASYNC, "forked", marks=pytest.mark.slow),
        pytest.param(ASYNC, "python", marks=pytest.mark.slow),
        (BLOCKING, "forked"),
        pytest.param(BLOCKING, "python", marks=pytest.mark.slow),
    ],
    indirect=["world"],
    ids=["async-memory", "async-forked", "async-python", "blocking-forked", "blocking-python"],
)


async def run_each(world, template: str, statements: Iterable[str]) -> dict[str, ProcessHandle]:
    """Run an entry for each statement, all of one host, to their ends."""
    write = world.entry if template is ASYNC else world.blocking_entry
    entries = {
        statement: write(template.format(statement), f"{number}.py") for number, statement in enumerate(statements)
    }
    async with world.worker() as worker:
        handles = {statement: await worker.backend_processes.spawn(entry) for statement, entry in entries.items()}
        for handle in handles.values():
            await handle.wait_ended()
    assert world.payloads() == ["last"] * len(entries)
    return handles


@both_flavours
async def test_with_0_or_none_it_counts_as_returning_none(world, world_clock: MockClock | None, template: str) -> None:
    for statement, handle in (await run_each(world, template, COMPLETES)).items():
        end = handle.info.exit_reason, handle.result, handle.info.error
        assert end == (ExitReason.COMPLETED, None, None), statement


@both_flavours
async def test_with_another_code_it_is_an_exit_without_complete(
    world, world_clock: MockClock | None, template: str
) -> None:
    for statement, handle in (await run_each(world, template, EXITS)).items():
        assert handle.info.exit_reason is ExitReason.FAILED
        assert handle.info.error.startswith(f"exited with code {EXITS[statement]} without complete() or fail()")
        assert ("out of paper" in handle.info.error) == ("out of paper" in statement)


async def test_beside_another_exception_it_is_that_exception_that_counts(world, world_clock: MockClock | None) -> None:
    info = (await run_to_end(world, world.entry(ASYNC.format(FAILS)))).info
    assert info.state is ProcessState.FAILED
    assert "LookupError: no book" in info.error


async def test_in_a_task_of_the_entry_it_counts_through_the_nurserys_group(
    world, world_clock: MockClock | None
) -> None:
    entry = world.entry("""
        async def run(process):
            async def leave():
                sys.exit(0)
            process.ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
                nursery.start_soon(trio.sleep_forever)
    """)
    handle = await run_to_end(world, entry)
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, None)


@pytest.mark.parametrize("template", [ASYNC, BLOCKING], ids=["async", "blocking"])
async def test_os_exit_with_any_code_is_an_exit_without_complete(real_world, template: str) -> None:
    """Real processes only: in memory it would end the host."""
    codes = {f"print('to stderr', file=sys.stderr); os._exit({code})": code for code in (0, 7)}
    for statement, handle in (await run_each(real_world, template, codes)).items():
        assert handle.info.exit_reason is ExitReason.FAILED
        assert handle.info.error.startswith(f"exited with code {codes[statement]} without complete() or fail()")
        assert "to stderr" in handle.info.error


@pytest.mark.parametrize("template", [ASYNC, BLOCKING], ids=["async", "blocking"])
async def test_a_group_nested_deeper_than_the_interpreter_can_recurse_is_an_end_like_any_other(
    real_world, template: str
) -> None:
    """On real processes only: no test runner could show an exception of that kind that came out."""
    nest = "    for _ in range(3000): error = BaseExceptionGroup('in', [error])\n    raise error"
    reasons = {
        f"error = SystemExit(0)\n{nest}": ExitReason.COMPLETED,
        f"error = LookupError('no book')\n{nest}": ExitReason.FAILED,
    }
    for statement, handle in (await run_each(real_world, template, reasons)).items():
        info = handle.info
        assert info.exit_reason is reasons[statement]
        assert (info.error is None) == (info.exit_reason is ExitReason.COMPLETED)
        assert "without complete() or fail()" not in (info.error or "")
