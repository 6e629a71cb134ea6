"""Which function of an entry file is called. Real processes only: a `MemoryLauncher` is given functions, not files."""

from __future__ import annotations

import pytest

from spindle_trio import StartupFailedError
from support.contract import run_to_end


@pytest.mark.quick(6)
@pytest.mark.parametrize("definition", ["def", "async def"])
@pytest.mark.parametrize(
    ("source", "called"),
    [
        ("{0} run(process): return end(process, 'run')", "run"),
        ("{0} default(process): return end(process, 'default')", "default"),
        (
            "{0} run(process): return end(process, 'run')\n{0} default(process): return end(process, 'default')",
            "default",
        ),
        ("default = 'a word'\n{0} run(process): return end(process, 'run')", "run"),
    ],
)
async def test_default_is_called_if_it_is_callable_and_else_run(
    real_world, definition: str, source: str, called: str
) -> None:
    entry = real_world.blocking_entry(
        "def end(process, name):\n    process.ready()\n    return name\n" + source.format(definition)
    )
    assert (await run_to_end(real_world, entry)).result == called


async def test_default_and_run_may_be_of_different_kinds(real_world) -> None:
    """It is the function that is called which decides whether the process runs Trio."""
    entry = real_world.blocking_entry("""
        async def run(process):
            return "run"

        def default(process):
            process.ready()
            return type(process).__name__
    """)
    assert (await run_to_end(real_world, entry)).result == "BlockingProcessContext"


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "neither a callable 'run' nor a callable 'default'"),
        ("run = 5\ndefault = None", "neither a callable 'run' nor a callable 'default'"),
        ("def run(): pass", "an entry's run takes the process's context; write: def run(process)"),
        ("async def run(): pass", "an entry's run takes the process's context; write: def run(process)"),
        ("def run(process:", "SyntaxError"),
        ("raise LookupError('at import')", "LookupError: at import"),
    ],
)
async def test_a_file_that_gives_nothing_to_call_fails_before_ready_and_says_why(
    real_world, source: str, problem: str
) -> None:
    entry = real_world.blocking_entry(source, name="broken.py")
    async with real_world.worker() as worker:
        with pytest.raises(StartupFailedError) as raised:
            await worker.backend_processes.spawn(entry)
    assert problem in str(raised.value)
    assert "broken.py" in str(raised.value)
    assert real_world.states() == ["starting", "failed"]
