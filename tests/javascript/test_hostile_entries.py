"""Entries that replace, close or exhaust what the runtime stands on: the host comes through and knows what happened."""

from __future__ import annotations

import pytest
import trio

from spindle_trio import Limits, ProcessState
from support.contract import stderr_of
from support.javascript import ECHO, SLACK, Stage, body, outcome

REPLACED = {
    "toJSON of everything": """
        Object.prototype.toJSON = () => "polluted";
        Array.prototype.toJSON = String.prototype.toJSON = Number.prototype.toJSON = () => "polluted";
    """,
    "JSON": "JSON.stringify = JSON.parse = () => 'replaced';",
    "methods of arrays": """
        const methods = ["push", "shift", "slice", "splice", "find", "filter", "includes", "indexOf", "concat"];
        for (const name of methods) Array.prototype[name] = () => { throw new Error("an array's method"); };
    """,
    "methods of strings": """
        for (const name of ["trim", "slice", "replace", "isWellFormed", "toWellFormed", "split"]) {
          String.prototype[name] = () => { throw new Error("a text's method"); };
        }
    """,
    "buffers": """
        for (const name of ["from", "allocUnsafe", "byteLength", "concat"]) {
          Buffer[name] = () => { throw new Error("a buffer's function"); };
        }
        globalThis.Buffer = undefined;
    """,
    "timers": """
        for (const name of ["setTimeout", "setImmediate", "queueMicrotask", "performance", "Date"]) {
          globalThis[name] = () => { throw new Error("a timer"); };
        }
        process.hrtime = () => { throw new Error("a timer"); };
    """,
    "process": "globalThis.process = undefined;",
    "ways out": "process.exit = process.kill = process.abort = () => {};",
    "files": """
        for (const name of ["readSync", "writeSync", "writevSync"]) fs[name] = () => { throw new Error("a file"); };
        syncBuiltinESMExports();
    """,
    "objects": """
        for (const name of ["keys", "hasOwn", "assign", "getPrototypeOf", "defineProperty"]) {
          Object[name] = () => { throw new Error("an object's function"); };
        }
        globalThis.Object = globalThis.Array = globalThis.Number = globalThis.Error = globalThis.Promise = undefined;
    """,
    "promises": "Promise.prototype.then = Promise.prototype.catch = () => { throw new Error('a promise'); };",
    "emitters": "process.emit = process.listenerCount = () => { throw new Error('an emitter'); };",
    "stacks": "Error.prepareStackTrace = () => { throw new Error('a stack'); }; Error.stackTraceLimit = 0;",
    "the console": "for (const name of Object.keys(console)) console[name] = () => { throw new Error('console'); };",
    "its own context": "const own = p; p = { ...p }; for (const name of Object.keys(own)) own[name] = () => {};",
    "a frozen world": "for (const it of [Object, Array, String]) { Object.freeze(it); Object.freeze(it.prototype); }",
}

HEAD = "import fs from 'node:fs'; import { syncBuiltinESMExports } from 'node:module';"

SURVIVES = """
p.onStop(({ reason }) => { p.send({ stop: reason }); p.complete({ result: [1, "two", { three: null }] }); });
p.onMessage((payload) => p.send(["echo", payload]));
p.onMessage(() => { throw "on purpose"; });
p.heartbeat();
for (let number = 0; number < 300; number += 1) p.send([number, "x".repeat(1000)]);
p.ready();
return () => p.send("cleaned");
"""


@pytest.mark.slow
async def test_whatever_an_entry_replaces_frames_are_frames(stage: Stage) -> None:
    async def run(code: str) -> None:
        messages = []
        entry = stage.write(body(f"{code}\n{SURVIVES}", head=HEAD))
        heard = stage.worker.backend_processes.messages()
        handle = await stage.worker.backend_processes.spawn(entry)

        async def hear() -> object:
            while (message := await heard.receive()).process_id != handle.process_id:
                pass
            messages.append(message.payload)
            return message.payload

        await handle.send({"größe": [1, None]})
        while await hear() != ["echo", {"größe": [1, None]}]:
            pass
        await handle.stop("enough")
        while await hear() != "cleaned":
            pass
        heard.close()
        assert messages[:300] == [[number, "x" * 1000] for number in range(300)]
        assert messages[300:] == [["echo", {"größe": [1, None]}], {"stop": "enough"}, "cleaned"]
        assert (*await outcome(handle), handle.result) == ("completed", None, {"result": [1, "two", {"three": None}]})

    async with stage.host(max_processes=10):
        for what, code in REPLACED.items():
            try:
                with trio.fail_after(10):
                    await run(code)
            except Exception as error:
                error.add_note(f"it has replaced {what}")
                raise


@pytest.mark.slow
async def test_whatever_an_entry_replaces_its_failure_is_told(stage: Stage) -> None:
    """With the text of the error, which is shown with nothing of what it has replaced."""
    cases = {
        what: code
        for what, code in REPLACED.items()
        if what not in {"objects", "methods of arrays", "methods of strings"}
    }

    async def run(code: str) -> tuple[str, str | None]:
        return await outcome(await stage.spawn(body(f"{code}\np.ready(); throw new RangeError('too far');", head=HEAD)))

    async with stage.host():
        ends = await stage.for_each(cases, run)
    assert ends == dict.fromkeys(cases, ("failed", "RangeError: too far"))


@pytest.mark.slow
async def test_whatever_an_entry_replaces_calls_are_answered(stage: Stage) -> None:
    """Although what serves them is loaded later, if any module can still be loaded then."""
    loads_nothing = {"buffers", "files", "its own context"}  # the last one has no `onCall` in its copy
    cases = {what: code for what, code in REPLACED.items() if what not in loads_nothing}
    serves = """
        p.onCall("once", async (payload, call) => { await null; call.check(); return [payload, p.call.method]; });
        p.onCall("many", function* () { yield 1; yield [2]; });
        p.ready();
    """

    async def run(code: str) -> list[object]:
        handle = await stage.spawn(body(f"{code}\n{serves}", head=HEAD))
        async with handle.stream("many") as items:
            return [await handle.call("once", {"n": 1}, timeout=20), *[item async for item in items]]

    async with stage.host(max_processes=20):
        answers = await stage.for_each(cases, run)
    assert answers == {what: [[{"n": 1}, "once"], 1, [2]] for what in cases}


@pytest.mark.slow
async def test_a_recursion_without_end_that_sends_breaks_no_frame(stage: Stage) -> None:
    """The stack ends somewhere within `send`, and what that had begun must be whole or not at all."""
    async with stage.host():
        for text in ("'x'", "'x'.repeat(100)", "[[[[1]]]]"):
            handle = await stage.spawn(
                body(f"""
                await new Promise((go) => p.onMessage(go) && p.ready());
                const deeper = (number) => {{ p.send([number, {text}]); deeper(number + 1); }};
                for (let round = 0; round < 3; round += 1) {{
                  try {{ deeper(0); }} catch (error) {{ if (!(error instanceof RangeError)) throw error; }}
                }}
                p.complete("whole");
                """)
            )
            messages = handle.messages()
            await handle.send("go")
            count = 0
            async for payload in messages:
                assert payload[0] in {0, count}  # type: ignore[index]  # each round begins anew
                count = payload[0] + 1  # type: ignore[index]
            assert (*await outcome(handle), handle.result) == ("completed", None, "whole"), text


async def test_an_entry_that_closes_the_descriptors_of_the_runtime_has_failed(stage: Stage) -> None:
    async with stage.host():
        neighbour = await stage.spawn(ECHO)
        handle = await stage.spawn(
            body("p.ready(); for (let fd = 3; fd < 100; fd += 1) try { fs.closeSync(fd); } catch {}", head=HEAD)
        )
        assert (await outcome(handle))[0] == "failed"
        messages = neighbour.messages()
        await neighbour.send("still here")
        assert await messages.receive() == "still here"


async def test_an_entry_that_writes_into_its_lanes_has_failed(stage: Stage) -> None:
    async with stage.host():
        for text in ("'garbage that is no frame'", "Buffer.from([255, 255, 255, 255])", "'\\0\\0\\0\\x01{'"):
            handle = await stage.spawn(
                body(
                    f"p.ready(); for (let fd = 3; fd < 40; fd += 1) "
                    f"try {{ if (fs.fstatSync(fd).isSocket()) fs.writeSync(fd, {text}); }} catch {{}}",
                    head=HEAD,
                )
            )
            assert (await outcome(handle))[0] == "failed"


async def test_without_any_listener_left_an_error_is_nodes_to_tell(stage: Stage) -> None:
    """And what was sent before it arrives, as before any other exit."""
    async with stage.host(limits=Limits(inbox_messages=10)):
        handle = await stage.spawn(
            body("""
            await new Promise((go) => p.onMessage(go) && p.ready());
            process.removeAllListeners("uncaughtException");
            for (let number = 0; number < 1000; number += 1) p.send([number, "x".repeat(1000)]);
            throw new RangeError("too far");
            """)
        )
        messages = handle.messages()
        await handle.send("go")
        assert [payload[0] async for payload in messages] == list(range(1000))  # type: ignore[index]
        handle = await stage.spawn(
            body("process.removeAllListeners(); p.ready(); setTimeout(() => { throw new RangeError('x') });")
        )
        assert (await outcome(handle))[0] == "failed"
        assert "RangeError: x" in stderr_of(handle)


@pytest.mark.slow
async def test_more_ways_to_end_while_something_is_going_on(stage: Stage) -> None:
    cases = {
        "p.complete('done'); process.abort();": ("completed", "done"),
        "p.complete('done'); process.kill(process.pid, 'SIGKILL');": ("completed", "done"),
        "p.complete('done'); process.reallyExit(5);": ("completed", "done"),
        "p.complete('done'); return () => process.exit(7);": ("completed", "done"),
        "p.complete('done'); process.exitCode = 9;": ("completed", "done"),
        "process.on('exit', () => process.exit(4)); p.complete('done');": ("completed", "done"),
        "p.complete('done'); setInterval(() => {}, 1); new Promise(() => {});": ("completed", "done"),
        "p.complete('done'); setImmediate(() => { throw new Error('then'); });": ("completed", "done"),
        "p.complete('done'); for (let n = 0; n < 50; n += 1) Promise.reject(n);": ("completed", "done"),
        "p.complete('done'); process.removeAllListeners(); Promise.reject(new Error('then'));": ("completed", "done"),
        "setTimeout(() => {}, 1e6).unref(); setTimeout(() => p.complete('done'), 20).unref();": ("completed", "done"),
        "process._getActiveHandles().forEach((it) => it.unref()); p.complete('done');": ("completed", "done"),
        "p.fail(new Proxy(new Error('x'), { get() { throw 1; } }));": ("failed", None),
        "p.fail({ toString() { throw new Error('no text'); } });": ("failed", None),
        "p.fail(Object.create(null));": ("failed", None),
        "p.fail(Symbol('sign'));": ("failed", None),
        "process.emit('uncaughtException', new Error('emitted'));": ("failed", None),
        "process.emit('exit', 0); p.complete('done');": ("completed", "done"),
        "process._exiting = true; p.complete('done');": ("completed", "done"),
        "process.stdin.destroy(); p.complete('done');": ("completed", "done"),
    }

    async def run(code: str) -> tuple[str, object]:
        handle = await stage.end(body(f"p.ready(); {code}"))
        return str(handle.state), handle.result

    async with stage.host(grace_period=2):
        ends = await stage.for_each({code: code for code in cases}, run)
    assert ends == cases


async def test_a_slow_reader_gets_all_that_was_sent_before_an_exit(stage: Stage) -> None:
    async with stage.host(limits=Limits(inbox_messages=10)):
        handle = await stage.spawn(
            body("""
            await new Promise((go) => p.onMessage(go) && p.ready());
            for (let number = 0; number < 2000; number += 1) p.send([number, "x".repeat(2000)]);
            process.exit(1);
            """)
        )
        messages = handle.messages()
        await handle.send("go")
        count = 0
        async for payload in messages:
            assert payload[0] == count  # type: ignore[index]
            count += 1
            if count % 100 == 0:
                await trio.sleep(0.01)
        assert count == 2000
        assert (await outcome(handle))[1] == "exited with code 1 without complete() or fail()"


async def test_an_exit_that_waits_for_its_host_can_still_be_stopped(stage: Stage) -> None:
    async with stage.host(limits=Limits(inbox_messages=10), grace_period=1):
        handle = await stage.spawn(
            body("""
            await new Promise((go) => p.onMessage(go) && p.ready());
            for (let number = 0; number < 2000; number += 1) p.send([number, "x".repeat(2000)]);
            process.exit(0);
            """)
        )
        messages = handle.messages()
        await handle.send("go")
        await messages.receive()
        await handle.stop()
        assert handle.state in {ProcessState.STOPPED, ProcessState.FAILED}
        assert len([payload async for payload in messages]) == 1999


@pytest.mark.slow
@pytest.mark.parametrize("listener", ["for (;;);", "p.complete('then'); for (;;);"])
async def test_a_listener_for_the_exit_that_blocks_is_the_watchdogs(stage: Stage, listener: str) -> None:
    async with stage.host(grace_period=0.3):
        since = trio.current_time()
        handle = await stage.end(
            body(f"process.on('exit', () => {{ {listener} }}); p.ready(); process.exit(1);"), heartbeat_timeout=0.5
        )
        assert trio.current_time() - since < 3 + SLACK
        assert handle.state is (ProcessState.COMPLETED if "complete" in listener else ProcessState.TIMED_OUT)
