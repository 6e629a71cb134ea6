"""`SystemExit` counts as returning `None` or as an exit without `complete`, by its code; `os._exit` is always one."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from spindle_trio import ExitReason, ProcessState
from support.contract import run_to_end

COMPLETES = [
    "sys.exit()",
    "sys.exit(0)",
    "raise SystemExit(None)",
    "raise BaseExceptionGroup('', [SystemExit(0)])",
    "raise BaseExceptionGroup('', [SystemExit(0), BaseExceptionGroup('', [SystemExit()])])",
]
EXITS = [
    ("sys.exit(3)", 3),
    ("sys.exit('out of paper')", 1),
    ("raise BaseExceptionGroup('', [SystemExit(0), BaseExceptionGroup('', [SystemExit(3)])])", 3),
]
FAILS = "raise BaseExceptionGroup('both', [SystemExit(0), LookupError('no book')])"

ASYNC = "async def run(process):\n    process.ready()\n    await process.send('last')\n    {}\n"
BLOCKING = "import os, sys\ndef run(process):\n    process.ready()\n    process.send('last')\n    {}\n"


@pytest.mark.parametrize("statement", COMPLETES)
async def test_with_0_or_none_it_counts_as_returning_none(world, world_clock: MockClock | None, statement: str) -> None:
    handle = await run_to_end(world, world.entry(ASYNC.format(statement)))
    assert (handle.info.exit_reason, handle.result, handle.info.error) == (ExitReason.COMPLETED, None, None)
    assert world.payloads() == ["last"]


@pytest.mark.parametrize("statement", COMPLETES)
async def test_with_0_or_none_it_counts_as_returning_none_in_a_blocking_entry(real_world, statement: str) -> None:
    handle = await run_to_end(real_world, real_world.blocking_entry(BLOCKING.format(statement)))
    assert (handle.info.exit_reason, handle.result, handle.info.error) == (ExitReason.COMPLETED, None, None)
    assert real_world.payloads() == ["last"]


@pytest.mark.parametrize(("statement", "code"), EXITS)
async def test_with_another_code_it_is_an_exit_without_complete(
    world, world_clock: MockClock | None, statement: str, code: int
) -> None:
    info = (await run_to_end(world, world.entry(ASYNC.format(statement)))).info
    assert info.exit_reason is ExitReason.FAILED
    assert info.error.startswith(f"exited with code {code} without complete() or fail()")
    assert ("out of paper" in info.error) == ("out of paper" in statement)
    assert world.payloads() == ["last"]


@pytest.mark.parametrize(("statement", "code"), EXITS)
async def test_with_another_code_it_is_an_exit_without_complete_in_a_blocking_entry(
    real_world, statement: str, code: int
) -> None:
    info = (await run_to_end(real_world, real_world.blocking_entry(BLOCKING.format(statement)))).info
    assert info.exit_reason is ExitReason.FAILED
    assert info.error.startswith(f"exited with code {code} without complete() or fail()")
    assert ("out of paper" in info.error) == ("out of paper" in statement)
    assert real_world.payloads() == ["last"]


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


@pytest.mark.parametrize("code", [0, 7])
@pytest.mark.parametrize("template", [ASYNC, BLOCKING], ids=["async", "blocking"])
async def test_os_exit_with_any_code_is_an_exit_without_complete(real_world, template: str, code: int) -> None:
    """Real processes only: in memory it would end the host."""
    source = template.format(f"print('to stderr', file=sys.stderr); os._exit({code})")
    entry = real_world.entry(source) if template is ASYNC else real_world.blocking_entry(source)
    info = (await run_to_end(real_world, entry)).info
    assert info.exit_reason is ExitReason.FAILED
    assert info.error.startswith(f"exited with code {code} without complete() or fail()")
    assert "to stderr" in info.error
    assert real_world.payloads() == ["last"]


@pytest.mark.parametrize("source", [ASYNC, BLOCKING], ids=["async", "blocking"])
@pytest.mark.parametrize(
    ("innermost", "reason"),
    [("SystemExit(0)", ExitReason.COMPLETED), ("LookupError('no book')", ExitReason.FAILED)],
)
async def test_a_group_nested_deeper_than_the_interpreter_can_recurse_is_an_end_like_any_other(
    real_world, source: str, innermost: str, reason: ExitReason
) -> None:
    """On real processes only: no test runner could show an exception of that kind that came out."""
    nested = (
        f"error = {innermost}\n    for _ in range(3000): error = BaseExceptionGroup('in', [error])\n    raise error"
    )
    info = (await run_to_end(real_world, real_world.blocking_entry(source.format(nested)))).info
    assert info.exit_reason is reason
    assert (info.error is None) == (reason is ExitReason.COMPLETED)
    assert "without complete() or fail()" not in (info.error or "")
    assert real_world.payloads() == ["last"]
