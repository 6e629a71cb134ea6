"""An entry that cannot become ready fails at once, not at its startup deadline."""

from __future__ import annotations

import pytest
import trio

from spindle_trio import ProcessState, StartupTimeoutError
from support.javascript import Stage, body

UNFIT = {
    "an object with run as the default export of an ES module": (
        ".mjs",
        "export default { run(p) { p.ready(); } };",
        "exports an object as default: export a function as default, or as run, or its functions by "
        "export const calls = { … } (only module.exports of a CommonJS module may be an object with run)",
    ),
    "an object with default as the default export of an ES module": (
        ".mjs",
        "export default { default(p) { p.ready(); } };",
        "exports an object as default: export a function as default, or as run",
    ),
    "a generator function": (".mjs", "export default function* (p) { p.ready(); }", "exports a generator function"),
    "an async generator function": (
        ".cjs",
        "exports.run = async function* (p) { p.ready(); };",
        "exports a generator function, a call of which runs nothing: export a function as default, or as run",
    ),
    "an export named then that never answers": (
        ".mjs",
        "export function then() {}\nexport default (p) => p.ready();",
        'a function named "then" is exported',
    ),
    "an export named then that answers": (
        ".mjs",
        "export function then(resolve) { resolve(null); }\nexport default (p) => p.ready();",
        'exports a function named "then"',
    ),
    "a top-level await that never settles": (
        ".mjs",
        "await new Promise(() => {});\nexport default (p) => p.ready();",
        "waits for nothing while it is loaded: a top-level await never settles",
    ),
    "modules that await each other": (
        ".mjs",
        "await import(new URL('./circle.mjs', import.meta.url).href);\nexport default (p) => p.ready();",
        "modules await each other in a circle",
    ),
    "an array": (
        ".cjs",
        "module.exports = [];",
        "exports no function: export a function as default, or as run, or functions by name as calls",
    ),
}


async def test_what_cannot_be_called_is_refused_at_once_with_what_to_export(stage: Stage) -> None:
    async def refuse(form: tuple[str, str, str]) -> tuple[str, str]:
        suffix, source, _ = form
        error = await stage.refusal(source, suffix=suffix, startup_timeout=30)
        return str(error.info.error), error.info.entry

    # `Stage` writes entry1.mjs, entry2.mjs, …; the circle leads back to the one that it is imported from.
    names = [f"entry{number}.mjs" for number in range(1, len(UNFIT) + 1)]
    (stage.root / "circle.mjs").write_text(
        f"for (const name of {names}) if (process.argv[1].endsWith('/' + name)) await import(`./${{name}}`);"
    )
    async with stage.host():
        with trio.fail_after(20):
            errors = await stage.for_each(UNFIT, refuse)
    for what, (error, entry) in errors.items():
        assert error.startswith(f'the entry "{entry}" '), (what, error)
        assert UNFIT[what][2] in error, (what, error)


RETURNS = {
    "a value": ("export default () => ({ files: [3] });", {"files": [3]}),
    "a promise of one": ("export const run = async () => { await null; return 'done'; };", "done"),
    "null": ("export default () => null;", None),
    "one that was awaited": (body("await new Promise((go) => setTimeout(go, 20)); return 7;"), 7),
}


async def test_an_entry_that_returns_a_value_before_it_is_ready_has_completed_with_it(stage: Stage) -> None:
    async def refuse(form: tuple[str, object]) -> object:
        error = await stage.refusal(form[0], startup_timeout=30)
        assert error.info.state is ProcessState.COMPLETED
        (end,) = (event for event in stage.events if event.process_id == error.info.process_id and event.exit_reason)
        return end.result

    async with stage.host():
        with trio.fail_after(20):
            results = await stage.for_each(RETURNS, refuse)
    assert results == {what: result for what, (_, result) in RETURNS.items()}


async def test_a_value_that_cannot_be_sent_is_named(stage: Stage) -> None:
    async with stage.host():
        error = await stage.refusal("export default () => [new Map()];", startup_timeout=30)
    assert error.info.state is ProcessState.FAILED
    assert "result[0]: Map is not JSON-safe" in str(error.info.error)


BECOMES_READY = {
    "a timer that it returns": "export default (p) => setTimeout(p.ready, 50);",
    "a server that it returns": (
        "import net from 'node:net';\n"
        "export default (p) => net.createServer().listen(0, '127.0.0.1', () => setTimeout(p.ready, 20));"
    ),
    "a message": body("p.onMessage(() => p.ready()); p.send('up'); return 'a value';"),
    "a promise": body("await new Promise((go) => setTimeout(go, 50)); p.ready();"),
    "a slow top-level await": "await new Promise((go) => setTimeout(go, 50));\nexport const run = (p) => p.ready();",
    "a worker thread": (
        "import { Worker } from 'node:worker_threads';\n"
        "export default (p) => new Worker('require(\"worker_threads\").parentPort.postMessage(1)', { eval: true })"
        ".on('message', p.ready);"
    ),
}


async def test_what_may_still_become_ready_is_waited_for_and_then_lives_on(stage: Stage) -> None:
    async def lives(source: str) -> ProcessState:
        name = stage.write(source)
        async with stage.worker.backend_processes.messages() as messages, trio.open_nursery() as nursery:

            async def answer() -> None:
                event = await messages.receive()
                await stage.worker.backend_processes.send(event.process_id, "go")

            if "onMessage" in source:
                nursery.start_soon(answer)
            handle = await stage.worker.backend_processes.spawn(name)
        await handle.send("still there?")
        return handle.state

    async with stage.host():
        states = await stage.for_each(BECOMES_READY, lives)
        assert len(await stage.worker.backend_processes.list()) == len(BECOMES_READY)
    assert states == dict.fromkeys(BECOMES_READY, ProcessState.RUNNING)


async def test_an_entry_that_returns_nothing_has_until_its_startup_deadline(stage: Stage) -> None:
    """As in the reference: whatever started it may still send it something, or stop it."""
    async with stage.host():
        with pytest.raises(StartupTimeoutError):
            await stage.spawn("export default () => {};", startup_timeout=0.5)
