"""Which function of an entry file is called. Real processes only: a `MemoryLauncher` is given functions, not files."""

from __future__ import annotations

from support.contract import run_to_end


async def test_default_is_called_if_it_is_callable_and_else_run(real_world) -> None:
    run = "{0} run(process): return end(process, 'run')\n"
    default = "{0} default(process): return end(process, 'default')\n"
    sources = {run: "run", default: "default", run + default: "default", "default = 'a word'\n" + run: "run"}
    entries = {
        real_world.blocking_entry(
            "def end(process, name):\n    process.ready()\n    return name\n" + source.format(definition),
            f"{definition[0]}{number}.py",
        ): called
        for definition in ("def", "async def")
        for number, (source, called) in enumerate(sources.items())
    }
    async with real_world.worker() as worker:
        for entry, called in entries.items():
            handle = await worker.backend_processes.spawn(entry)
            await handle.wait_ended()
            assert handle.result == called, (real_world.root / entry).read_text()


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
