"""How a JavaScript process ends by itself: its last word, what it throws, its exits, and its clean-up function."""

from __future__ import annotations

import pytest

from spindle_trio import ProcessState
from support.contract import stderr_of
from support.javascript import Stage, body, outcome

CLEANS_UP = "return () => p.send('cleaned');"

CLEANED = {
    "p.complete('done')": ("completed", None),
    "p.fail('no disk')": ("failed", "no disk"),
    "setTimeout(() => { throw new Error('late'); }, 1)": ("failed", "Error: late"),
    "setTimeout(() => Promise.reject(new Error('nobody asked')), 1)": ("failed", "Error: nobody asked"),
    "setTimeout(() => { p.complete('done'); p.complete('again'); }, 1)": ("completed", None),
    "setTimeout(() => { p.complete('done'); throw new Error('afterwards'); }, 1)": ("completed", None),
    "p.complete('done'); await null": ("completed", None),
}


async def test_the_clean_up_function_runs_once_before_each_end_that_the_process_has_a_part_in(stage: Stage) -> None:
    async def run(code: str) -> tuple[object, list[object]]:
        handle = await stage.spawn(body(f"p.ready(); {code}; {CLEANS_UP}"))
        messages = [payload async for payload in handle.messages()]
        return await outcome(handle), messages

    async with stage.host():
        ends = await stage.for_each({code: code for code in CLEANED}, run)
    assert ends == {code: (end, ["cleaned"]) for code, end in CLEANED.items()}


async def test_an_entry_that_is_no_async_function_may_clean_up_as_well(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            "export default (p) => { p.ready(); p.complete(); return () => p.send('cleaned'); };"
        )
        assert [payload async for payload in handle.messages()] == ["cleaned"]


async def test_the_end_waits_for_a_clean_up_that_takes_its_time(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            p.ready();
            p.complete("done");
            return async () => {
              await new Promise((resolve) => setTimeout(resolve, 50));
              p.send("cleaned");
            };
            """)
        )
        assert [payload async for payload in handle.messages()] == ["cleaned"]
        assert handle.result == "done"


@pytest.mark.parametrize(
    "how", ["() => { throw new Error('cannot clean') }", "async () => { throw new Error('cannot clean') }"]
)
async def test_a_clean_up_that_throws_is_reported_and_changes_nothing(stage: Stage, how: str) -> None:
    async with stage.host():
        handle = await stage.end(body(f"p.ready(); p.complete('done'); return {how};"))
    assert (*await outcome(handle), handle.result) == ("completed", None, "done")
    assert "the clean-up function threw: Error: cannot clean\n    at " in stderr_of(handle)


async def test_a_clean_up_that_never_ends_is_the_hosts_to_end(stage: Stage) -> None:
    async with stage.host(grace_period=0.3):
        handle = await stage.end(body("p.ready(); p.complete('done'); return () => new Promise(() => {});"))
    assert (handle.state, handle.result) == (ProcessState.COMPLETED, "done")


# ---- what nobody has handled

NOT_SHOWN = "(what was thrown cannot be shown)"

UNHANDLED = {
    "setTimeout(() => { throw new RangeError('too far'); }, 1)": "RangeError: too far",
    "setTimeout(() => { throw 'a word'; }, 1)": "a word",
    "setTimeout(() => { throw null; }, 1)": "null",
    "setTimeout(() => { throw undefined; }, 1)": "undefined",
    "setTimeout(() => { throw Symbol('sign'); }, 1)": "Symbol(sign)",
    "setTimeout(() => { throw { code: 7 }; }, 1)": "{ code: 7 }",
    "Promise.reject(new RangeError('too far'))": "RangeError: too far",
    "Promise.reject(new DOMException('stopped', 'AbortError'))": "AbortError: stopped",
    "p.onMessage(async () => { throw new RangeError('asked'); })": "RangeError: asked",
    "new (await import('node:events')).EventEmitter().emit('error', new Error('emitted'))": "Error: emitted",
    "(await import('node:vm')).runInNewContext(\"throw new TypeError('elsewhere')\")": "TypeError: elsewhere",
    "process.nextTick(() => { throw Object.assign(new Error('odd'), { name: 'Odd' }); })": "Odd: odd",
    "throw new Proxy({}, { getPrototypeOf() { throw 1; }, get() { throw 1; } })": "{}",
    "throw { get [Symbol.toStringTag]() { throw 1; } }": NOT_SHOWN,
    "throw Object.defineProperty(new Error('x'), 'message', { get() { throw 1; } })": NOT_SHOWN,
    "throw Object.assign(new Error('x'), { name: Symbol('no name') })": NOT_SHOWN,
    "(function deeper() { deeper(); })()": "RangeError: Maximum call stack size exceeded",
    "(async function deeper() { await deeper(); })()": "RangeError: Maximum call stack size exceeded",
    "throw new Error('x'.repeat(5000))": f"Error: {'x' * 993}…",
}


@pytest.mark.slow
async def test_what_nobody_handles_ends_the_process_as_failed_with_its_text(stage: Stage) -> None:
    async def run(code: str) -> tuple[str, str | None]:
        handle = await stage.spawn(body(f"p.ready(); {code};"))
        if "onMessage" in code:
            await handle.send("do it")
        return await outcome(handle)

    async with stage.host():
        ends = await stage.for_each({code: code for code in UNHANDLED}, run)
    assert ends == {code: ("failed", text) for code, text in UNHANDLED.items()}


async def test_what_is_thrown_before_ready_is_the_spawns_error_and_shows_its_line(stage: Stage) -> None:
    async with stage.host():
        error = await stage.refusal(body("setTimeout(() => { throw new RangeError('early'); }, 1);"))
        assert error.info.error == "RangeError: early"
        assert ".mjs:3:" in str(error)
        rejected = await stage.refusal(body("Promise.reject(new RangeError('early'));"))
        assert rejected.info.error == "RangeError: early"


async def test_the_causes_of_an_error_are_told(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.end(body("p.ready(); throw new Error('outer', { cause: new Error('inner') });"))
    assert handle.post_mortem is not None
    assert "[cause]: Error: inner\n" in str(handle.post_mortem.traceback)


async def test_an_entry_that_listens_for_what_nobody_handles_takes_care_of_it(stage: Stage) -> None:
    async with stage.host():
        results = await stage.for_each(
            {
                "exception": body("""
                process.on("uncaughtException", (error) => p.complete(error.message));
                p.ready();
                setTimeout(() => { throw new Error("handled"); }, 1);
                """),
                "rejection": body("""
                process.on("unhandledRejection", (error) => p.complete(error.message));
                p.ready();
                Promise.reject(new Error("handled"));
                """),
            },
            stage.result,
        )
    assert results == {"exception": "handled", "rejection": "handled"}


async def test_a_listener_that_throws_is_seen_by_node_and_ends_the_process(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.end(
            body("""
            process.on("uncaughtException", () => { throw new Error("in the listener"); });
            p.ready();
            setTimeout(() => { throw new Error("first"); }, 1);
            """)
        )
    assert handle.state is ProcessState.FAILED
    assert "Error: in the listener" in str(handle.post_mortem)


# ---- exits and signals

WITHOUT_A_WORD = {
    "process.exit(0)": "exited with code 0 without complete() or fail()",
    "process.exit(3)": "exited with code 3 without complete() or fail()",
    "process.exitCode = 4; process.exit()": "exited with code 4 without complete() or fail()",
    "process.exit(259)": "exited with code 3 without complete() or fail()",
    "process.abort()": "killed by SIGABRT without complete() or fail()",
    "process.kill(process.pid, 'SIGTERM')": "killed by SIGTERM without complete() or fail()",
    "process.kill(process.pid, 'SIGINT')": "killed by SIGINT without complete() or fail()",
    "process.kill(process.pid, 'SIGSEGV')": "killed by SIGSEGV without complete() or fail()",
}


async def test_an_end_without_a_word_is_told_for_what_it_is(stage: Stage) -> None:
    async with stage.host():
        ends = await stage.for_each(
            {code: body(f"p.ready(); p.send(1); {code};") for code in WITHOUT_A_WORD}, stage.end
        )
        for code, handle in ends.items():
            assert str((await outcome(handle))[1]).startswith(WITHOUT_A_WORD[code]), handle.post_mortem
        assert {handle.state for handle in ends.values()} == {ProcessState.FAILED}
        assert {handle.statistics().messages_received for handle in ends.values()} == {1}


async def test_an_exit_before_ready_is_the_spawns_error(stage: Stage) -> None:
    async with stage.host():
        error = await stage.refusal("console.error('no licence'); process.exit(5);")
    assert "exited with code 5" in str(error)
    assert "no licence" in str(error)


async def test_clean_up_is_not_for_process_exit_but_listeners_for_it_may_still_speak(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            process.on("exit", (code) => p.send(["exit", code]));
            p.ready();
            setTimeout(() => process.exit(3), 1);
            return () => p.send("cleaned");
            """)
        )
        assert [payload async for payload in handle.messages()] == [["exit", 3]]
        completed = await stage.end(
            body("process.on('exit', () => p.complete('at last')); p.ready(); process.exit(2);")
        )
        assert (*await outcome(completed), completed.result) == ("completed", None, "at last")


async def test_the_last_word_stands_whatever_the_exit_code(stage: Stage) -> None:
    async with stage.host():
        ends = await stage.for_each(
            {
                "complete": body("p.ready(); p.complete('done'); process.exit(3);"),
                "fail": body("p.ready(); p.fail('no disk'); process.exit(0);"),
            },
            stage.end,
        )
        assert (*await outcome(ends["complete"]), ends["complete"].result) == ("completed", None, "done")
        assert await outcome(ends["fail"]) == ("failed", "no disk")


async def test_a_listener_for_the_exit_that_throws_holds_nothing_up(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.end(
            body("process.on('exit', () => { throw new Error('no exit'); }); p.ready(); p.complete('done');")
        )
        assert (*await outcome(handle), handle.result) == ("completed", None, "done")
        assert "a listener for the exit threw: Error: no exit" in stderr_of(handle)
        exits = await stage.end(
            body("process.on('exit', () => { throw new Error('no'); }); p.ready(); process.exit(3);")
        )
        assert exits.state is ProcessState.FAILED


@pytest.mark.slow
async def test_an_entry_that_never_yields_again_after_its_last_word_is_ended_with_it(stage: Stage) -> None:
    async with stage.host(grace_period=0.3):
        for code in ("p.complete('done'); for (;;);", "process.on('exit', () => { for (;;); }); p.complete('done');"):
            handle = await stage.end(body(f"p.ready(); {code}"))
            assert (handle.state, handle.result) == (ProcessState.COMPLETED, "done")
