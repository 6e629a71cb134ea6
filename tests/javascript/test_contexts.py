"""The context of an entry, and the search for its function."""

from __future__ import annotations

import math

import pytest

from spindle_trio import ProcessState
from support.contract import stderr_of
from support.javascript import Stage, body, outcome

FACTS = """
export default (p) => {
  p.ready();
  const names = Object.keys(p);
  const functions = names.filter((name) => typeof p[name] === "function").sort();
  const facts = names.filter((name) => !functions.includes(name)).map((name) => [name, p[name]]);
  p.complete({ facts: Object.fromEntries(facts), functions, timeout: String(p.heartbeatTimeoutMs) });
};
"""

FUNCTIONS = ["complete", "fail", "heartbeat", "onMessage", "onStop", "ready", "send"]


async def test_the_context_has_the_names_of_the_api_and_the_facts_that_were_given(stage: Stage) -> None:
    """And no others: what was not given is absent, which is how JavaScript says it."""
    given = {"kind": " indexer ", "key": " chat:42 ", "payload": {"größe": [1]}, "metadata": {"b": None}}
    async with stage.host():
        all_given = await stage.end(FACTS, heartbeat_timeout=2.5, **given)
        none_given = await stage.end(FACTS, heartbeat_timeout=math.inf)
        null_given = await stage.end(FACTS, payload=None)
    assert all_given.result["facts"] == {
        "processId": all_given.process_id,
        "entry": all_given.entry,
        "kind": "indexer",
        "key": "chat:42",
        "payload": {"größe": [1]},
        "metadata": {"b": None},
        "userId": "ada",
    }
    assert (all_given.result["functions"], all_given.result["timeout"]) == (FUNCTIONS, "2500")
    assert none_given.result["facts"] == {
        "processId": none_given.process_id,
        "entry": none_given.entry,
        "kind": none_given.entry,
        "userId": "ada",
    }
    assert none_given.result["timeout"] == "Infinity"
    assert null_given.result["facts"]["payload"] is None


async def test_the_functions_need_no_context_to_be_called_on(stage: Stage) -> None:
    """Entries take the context apart: `export default ({ ready, complete }) => …`."""
    source = "export default ({ ready, send, complete }) => { ready(); send(1); setTimeout(complete, 1, 'apart'); };"
    async with stage.host():
        assert await stage.result(source) == "apart"


async def test_ready_and_the_last_word_count_once_and_return_nothing(stage: Stage) -> None:
    async with stage.host():
        handles = await stage.for_each(
            {
                "complete": body("p.ready(); p.ready(); p.complete(1); p.complete(2); p.fail('no'); p.ready();"),
                "fail": body("p.ready(); p.fail('first'); p.complete(2); p.fail('second');"),
                "nothing": body("p.complete([p.ready(), p.heartbeat(), p.send(1)].every((it) => it === undefined));"),
            },
            stage.end,
        )
    assert [event.state for event in stage.events if event.process_id == handles["complete"].process_id] == [
        "starting",
        "running",
        "completed",
    ]
    assert handles["complete"].result == 1
    assert await outcome(handles["fail"]) == ("failed", "first")
    assert handles["nothing"].result is True


async def test_what_a_completed_process_has_completed_with(stage: Stage) -> None:
    """A property that is undefined is left out, as JSON does; no result at all is none."""
    results = {
        "p.complete()": None,
        "p.complete(undefined)": None,
        "p.complete(null)": None,
        "p.complete({ a: undefined, b: [false, -0, 'ö'] })": {"b": [False, 0, "ö"]},
        "p.complete(Object.assign(Object.create(null), { bare: 1 }))": {"bare": 1},
    }
    async with stage.host():
        came = await stage.for_each({code: body(f"p.ready(); {code};") for code in results}, stage.result)
    assert came == results


async def test_the_text_of_a_failure_is_what_was_given(stage: Stage) -> None:
    texts = {
        "p.fail('no disk')": "no disk",
        "p.fail('two\\nlines')": "two\nlines",
        "p.fail(new RangeError('too far'))": "RangeError: too far",
        "p.fail(7)": "7",
        "p.fail()": "the entry called fail() without saying why",
        "p.fail('  ')": "the entry called fail() without saying why",
        "p.fail('lone \\ud800 half')": "lone \ufffd half",
    }
    async with stage.host():
        ends = await stage.for_each({code: body(f"p.ready(); {code};") for code in texts}, stage.end)
        assert {code: (await outcome(handle))[1] for code, handle in ends.items()} == texts
    post_mortem = ends["p.fail(new RangeError('too far'))"].post_mortem
    assert post_mortem is not None
    assert str(post_mortem.traceback).startswith("RangeError: too far\n    at ")


async def test_a_long_text_of_a_failure_is_cut_in_the_middle(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.end(body("p.ready(); p.fail('a' + 'ö'.repeat(1_000_000) + 'z');"))
    error = handle.info.error
    assert error is not None
    assert error.startswith("aö")
    assert error.endswith("öz")
    assert len(error.encode()) <= 64 * 1024


# ---- how the function is found

FORMS = {
    "a default export": (".mjs", "export default (p) => { p.ready(); p.complete('found'); };"),
    "a default export in a .js file": (".js", "export default (p) => { p.ready(); p.complete('found'); };"),
    "run": (".mjs", "export function run(p) { p.ready(); p.complete('found'); }"),
    "default before run": (
        ".mjs",
        "export function run(p) { p.fail('run'); }\nexport default (p) => { p.ready(); p.complete('found'); };",
    ),
    "run where default is no function": (
        ".mjs",
        "export default 7;\nexport const run = (p) => { p.ready(); p.complete('found'); };",
    ),
    "an object with run as module.exports": (
        ".cjs",
        "module.exports = { run(p) { p.ready(); p.complete(this === module.exports ? 'found' : this); } };",
    ),
    "exports.run": (".cjs", "exports.run = (p) => { p.ready(); p.complete('found'); };"),
    "exports.run in a .js file": (".js", "exports.run = (p) => { p.ready(); p.complete('found'); };"),
    "exports.default": (".cjs", "exports.default = (p) => { p.ready(); p.complete('found'); };"),
    "module.exports": (".cjs", "module.exports = (p) => { p.ready(); p.complete('found'); };"),
    "module.exports in a .js file": (".js", "module.exports = (p) => { p.ready(); p.complete('found'); };"),
    "a module that was made from one with a default export": (
        ".js",
        """
        "use strict";
        Object.defineProperty(exports, "__esModule", { value: true });
        exports.default = main;
        exports.run = (p) => p.fail("run");
        function main(p) { p.ready(); p.complete("found"); }
        """,
    ),
    "names that nobody sees by reading": (
        ".cjs",
        "const name = 'run'; module.exports = { [name](p) { p.ready(); p.complete('found'); } };",
    ),
    "an async function": (
        ".mjs",
        "export default async (p) => { await null; p.ready(); await null; p.complete('found'); };",
    ),
    "top-level await": (
        ".mjs",
        "const word = await Promise.resolve('found');\nexport default (p) => { p.ready(); p.complete(word); };",
    ),
}


@pytest.mark.slow
async def test_each_form_of_module_is_understood(stage: Stage) -> None:
    async def run(form: tuple[str, str]) -> object:
        suffix, source = form
        return await stage.result(source, suffix=suffix)

    async with stage.host():
        assert await stage.for_each(FORMS, run) == dict.fromkeys(FORMS, "found")


async def test_a_package_file_decides_what_a_js_file_is(stage: Stage) -> None:
    """As everywhere in Node; and an entry finds its neighbours and its packages."""
    package = stage.root / "node_modules" / "beside"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"name": "beside", "main": "main.cjs"}')
    (package / "main.cjs").write_text("module.exports = 'a package';")
    (stage.root / "neighbour.js").write_text("export const word = import.meta.url.slice(-12);")
    (stage.root / "package.json").write_text('{"type": "module"}')
    source = """
    import word from "beside";
    import { word as other } from "./neighbour.js";
    export default (p) => { p.ready(); p.complete([word, other, typeof require]); };
    """
    async with stage.host():
        assert await stage.result(source, suffix=".js") == ["a package", "neighbour.js", "undefined"]


async def test_a_file_may_have_any_name_and_folder(stage: Stage) -> None:
    names = ["a b.mjs", "c#d?e%20f.mjs", "grün/😀.mjs", "-v.mjs", "'\"$HOME`.mjs", "new\nline.mjs", "n.e.w.mjs"]
    async with stage.host():
        for name in names:
            (stage.root / name).parent.mkdir(exist_ok=True)
            (stage.root / name).write_text(body("p.ready(); p.complete(p.entry);"))
            handle = await stage.worker.backend_processes.spawn(name)
            await handle.wait_ended()
            assert handle.result == name


# ---- what cannot be loaded

UNLOADABLE = {
    "exports no function: export a function as default, or as run, or functions ": "export const main = () => {};",
    "could not be loaded: Error: Cannot find package 'not-there'": (
        "import it from 'not-there';\nexport default () => {};"
    ),
    "could not be loaded: SyntaxError: ": "export default () => { this is not JavaScript };",
    "could not be loaded: RangeError: at the top": "throw new RangeError('at the top');",
    "could not be loaded: a word": "throw 'a word';",
    "could not be loaded: undefined": "throw undefined;",
    "could not be loaded: TypeError: later": "await null; throw new TypeError('later');",
}


async def test_what_cannot_be_loaded_says_why(stage: Stage) -> None:
    async with stage.host():
        errors = await stage.for_each(UNLOADABLE, stage.refusal)
    for says, error in errors.items():
        assert error.info.state is ProcessState.FAILED
        assert says in (error.info.error or ""), error.info.error
        assert str(error.info.error).startswith('the entry "entry')
        assert "\n" not in str(error.info.error)


async def test_a_syntax_error_shows_its_line(stage: Stage) -> None:
    async with stage.host():
        error = await stage.refusal("export default () => {\n  const a = ;\n};")
    lines = [line.strip() for line in str(error).splitlines()]
    assert "const a = ;" in lines, str(error)
    assert lines[lines.index("const a = ;") - 1].endswith(".mjs:2")


async def test_an_entry_that_returns_lives_on_and_one_that_throws_has_failed(stage: Stage) -> None:
    async with stage.host():
        lives = await stage.spawn(body("p.ready(); p.onMessage((m) => p.complete(m)); return 'not a function';"))
        never_asks = await stage.spawn("export default (p) => { p.ready(); return { not: 'a function' }; };")
        thrown = await stage.end("export default (p) => { p.ready(); throw new RangeError('too\\n far'); };")
        rejected = await stage.end(body("p.ready(); await null; throw { not: 'an error' };"))
        before_ready = await stage.refusal("export default (p) => { throw new RangeError('early'); };")
        await lives.send("on")
        assert await outcome(lives) == ("completed", None)
        assert never_asks.state is ProcessState.RUNNING
        await never_asks.stop()
    assert lives.result == "on"
    assert await outcome(thrown) == ("failed", "RangeError: too far")
    assert thrown.post_mortem is not None
    assert "RangeError: too\n far\n    at " in str(thrown.post_mortem.traceback)
    assert ".mjs:1:" in str(thrown.post_mortem.traceback)
    assert await outcome(rejected) == ("failed", "{ not: 'an error' }")
    assert before_ready.info.error == "RangeError: early"
    assert stderr_of(thrown) == ""
