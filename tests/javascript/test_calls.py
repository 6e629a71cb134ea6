"""Calls of JavaScript entries, by a host: answers, streams, errors, deadlines, and ends."""

from __future__ import annotations

import pytest
import trio

from spindle_trio import (
    CallError,
    CallFailedError,
    CallTimeoutError,
    ExitReason,
    Limits,
    PayloadError,
    ProcessHandle,
    ProcessLostError,
    ProcessState,
    UnknownMethodError,
)
from support.javascript import Stage, body, outcome, wait_stderr

TOOLS = """
export const calls = {
  square: ({ n }) => n * n,
  async later(payload) { await null; return payload; },
  *count({ to }) { for (let n = 0; n < to; n += 1) yield n; },
  async *slowly({ to }) { for (let n = 0; n < to; n += 1) { await null; yield n; } },
};
"""

LOOPS = "export const calls = { loop() { for (;;); }, square: ({ n }) => n * n };"


async def items_of(handle: ProcessHandle, method: str, payload: object, **options: int) -> list[object]:
    """Read a stream to its end."""
    async with handle.stream(method, payload, **options) as items:
        return [item async for item in items]


async def test_a_module_of_calls_is_a_tool(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(TOOLS)
        assert await handle.call("square", {"n": 3}) == 9
        assert await handle.call("later", ["ü", None, 1.5]) == ["ü", None, 1.5]
        for method in ("count", "slowly"):
            assert await items_of(handle, method, {"to": 100}) == list(range(100))
            assert await items_of(handle, method, {"to": 100}, window=1) == list(range(100))
            assert await items_of(handle, method, {"to": 0}) == []
        with pytest.raises(UnknownMethodError) as unknown:
            await handle.call("cube")
        assert list(unknown.value.known) == ["count", "later", "slowly", "square"]
        await handle.stop()
        assert await outcome(handle) == ("stopped", None)


async def test_a_commonjs_module_may_export_calls(stage: Stage) -> None:
    async with stage.host():
        for source in ("exports.calls = { one: () => 1 };", "module.exports = { calls: { one: async () => 1 } };"):
            handle = await stage.spawn(source, suffix=".cjs")
            assert await handle.call("one") == 1


async def test_a_handler_of_an_entry_uses_its_context(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            p.onCall("greet", async ({ name }) => {
              await null;
              p.send(p.call.method);
              return [name, p.userId, p.call.deadline - performance.now() < 30_000];
            });
            p.ready();
            """)
        )
        messages = handle.messages()
        assert await handle.call("greet", {"name": "Bo"}, timeout=30) == ["Bo", "ada", True]
        assert await messages.receive() == "greet"


async def test_a_handler_may_come_after_ready(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("p.ready(); p.onMessage(() => { p.onCall('one', () => 1); p.send('registered'); });")
        )
        with pytest.raises(UnknownMethodError):
            await handle.call("one")
        messages = handle.messages()
        await handle.send("go")
        await messages.receive()
        while True:  # the word that it takes calls travels on another lane than the message
            try:
                assert await handle.call("one") == 1
                break
            except UnknownMethodError as error:
                assert not error.known
                await trio.testing.wait_all_tasks_blocked(0.001)


async def test_what_a_handler_throws_is_raised_here_and_the_process_goes_on(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            p.onCall("fails", () => { throw new RangeError("too far"); });
            p.onCall("odd", () => { throw { code: 7 }; });
            p.onCall("unsafe", () => ({ tags: new Set() }));
            p.onCall("large", (size) => "x".repeat(size));
            p.onCall("stream", function* () { try { yield 1; yield 2; } finally { throw new TypeError("closing"); } });
            p.ready();
            """),
        )
        with pytest.raises(CallFailedError) as failed:
            await handle.call("fails")
        assert (failed.value.error_type, failed.value.text) == ("RangeError", "too far")
        assert "RangeError: too far\n    at " in str(failed.value.traceback)
        with pytest.raises(CallFailedError) as failed:
            await handle.call("odd")
        assert (failed.value.error_type, failed.value.text) == ("object", "{ code: 7 }")
        for method, text in (("unsafe", "answer.tags: Set is not JSON-safe"), ("large", "answer: 16777218 bytes")):
            with pytest.raises(CallFailedError) as failed:
                await handle.call(method, 2**24)
            assert failed.value.error_type == "PayloadError"
            assert failed.value.text.startswith(text)
            assert failed.value.traceback is None  # nothing but the runtime's own frames
        async with handle.stream("stream") as channel:
            assert [await channel.receive(), await channel.receive()] == [1, 2]
            with pytest.raises(CallFailedError, match="closing"):
                await channel.receive()
        assert await handle.call("large", 3) == "xxx"


async def test_a_traceback_has_the_entrys_own_frames(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            const deeper = () => { throw new Error("inner"); };
            p.onCall("caused", function outermost() {
              try { deeper(); } catch (cause) { throw new Error("outer", { cause }); }
            });
            p.onCall("later", async () => { await null; deeper(); });
            p.ready();
            """)
        )
        for method, names in (("caused", ["outermost", "deeper"]), ("later", ["deeper"])):
            with pytest.raises(CallFailedError) as failed:
                await handle.call(method)
            traceback = str(failed.value.traceback)
            assert all(f"    at {name} (" in traceback for name in names)
            assert ".mjs:" in traceback
            assert "calls.mjs" not in traceback
            assert traceback.count("{") == traceback.count("}")


async def test_dates_and_bytes_arrive_as_such(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            "const value = () => [new Date(0), Buffer.from([0, 255]), { $a: 1 }];"
            "export const calls = { value, *stream() { yield value(); } };"
        )
        answer = await handle.call("value")
        assert isinstance(answer, list)
        assert (str(answer[0]), *answer[1:]) == ("1970-01-01 00:00:00+00:00", b"\x00\xff", {"$a": 1})
        assert await items_of(handle, "stream", None) == [answer]


async def test_a_thousand_calls_at_once_are_each_answered(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(TOOLS)
        answers: dict[int, object] = {}

        async def ask(n: int) -> None:
            answers[n] = await handle.call(("square", "later")[n % 2], {"n": n})

        async with trio.open_nursery() as nursery:
            for n in range(1000):
                nursery.start_soon(ask, n)
        assert answers == {n: {"n": n} if n % 2 else n * n for n in range(1000)}


async def test_a_call_whose_time_is_over_is_cancelled_there(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            p.onCall("wait", (_, { signal }) => new Promise((_, reject) => {
              signal.onabort = () => { p.send("aborted"); reject(signal.reason); };
            }));
            p.ready();
            """)
        )
        messages = handle.messages()
        with pytest.raises(CallTimeoutError):
            await handle.call("wait", timeout=0.05, overrun="kill")
        assert await messages.receive() == "aborted"
        with trio.move_on_after(0.05):
            await handle.call("wait")
        assert await messages.receive() == "aborted"
        assert handle.state is ProcessState.RUNNING


async def test_leaving_a_stream_closes_its_generator(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            p.onCall("endless", async function* () {
              try { for (let n = 0; ; n += 1) yield n; } finally { p.send("closed"); }
            });
            p.ready();
            """)
        )
        messages = handle.messages()
        async with handle.stream("endless") as items:
            assert [await items.receive() for _ in range(40)] == list(range(40))
        assert await messages.receive() == "closed"


async def test_a_generator_that_waits_for_its_reader_is_closed_when_its_time_is_over(stage: Stage) -> None:
    async with stage.host(cancel_grace=0.2):
        handle = await stage.spawn(
            body("""
            p.onCall("count", function* () { try { for (;;) yield 1; } finally { console.error("closed"); } });
            p.ready();
            """)
        )
        async with handle.stream("count", timeout=0.1, window=1, overrun="kill") as items:  # and nobody reads
            await wait_stderr(handle, "closed")
            await handle.wait_idle()
            assert await items.receive() == 1
            with pytest.raises(CallTimeoutError):
                await items.receive()
        assert handle.state is ProcessState.RUNNING


async def test_a_loop_that_overruns_is_killed_and_its_error_says_that_there_are_no_stacks(stage: Stage) -> None:
    async with stage.host(cancel_grace=0.2):
        handle = await stage.spawn(LOOPS)
        with pytest.raises(CallError):
            await handle.call("loop", timeout=0.1, overrun="kill")
        state, error = await outcome(handle)
        assert (state, handle.info.exit_reason) == ("timed_out", ExitReason.TIMED_OUT)
        assert str(error).startswith("its handler of 'loop' went on for 0.2 s")
        assert str(error).endswith("; JavaScript leaves no stacks")
        assert handle.post_mortem is not None
        assert not handle.post_mortem.stacks
        with pytest.raises(ProcessLostError) as lost:
            await handle.call("square", {"n": 3})
        assert not lost.value.handed_over


async def test_a_loop_that_is_left_misses_its_heartbeat(stage: Stage) -> None:
    """The process takes calls and never answers: while a handler computes, nothing beats for it."""
    async with stage.host():
        handle = await stage.spawn(LOOPS, heartbeat_timeout=0.5)
        async with trio.open_nursery() as nursery:

            async def is_lost() -> None:
                with pytest.raises(ProcessLostError) as lost:
                    await handle.call("square", {"n": 3})
                assert lost.value.info.state is ProcessState.TIMED_OUT

            with pytest.raises(CallTimeoutError):
                await handle.call("loop", timeout=0.1)
            nursery.start_soon(is_lost)
        assert str((await outcome(handle))[1]).startswith("no heartbeat for 0.5 s")


async def test_a_process_that_waits_for_calls_beats_by_itself(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(TOOLS, heartbeat_timeout=0.4)
        await trio.sleep(1.2)
        assert await handle.call("square", {"n": 3}) == 9


async def test_nothing_beats_for_a_process_that_waits_for_calls_no_longer(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("const off = p.onCall('off', () => { off(); return 1; }); p.ready();"), heartbeat_timeout=0.4
        )
        assert await handle.call("off") == 1
        assert await outcome(handle) == ("timed_out", "no heartbeat for 0.4 s; JavaScript leaves no stacks")


async def test_a_stop_lets_running_handlers_finish(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            p.onCall("hold", () => new Promise((go) => { console.error("held"); setTimeout(go, 100, "finished"); }));
            p.ready();
            """)
        )
        answers = []

        async def hold() -> None:
            answers.append(await handle.call("hold"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await wait_stderr(handle, "held")
            nursery.start_soon(handle.stop)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ProcessLostError):
                await handle.call("hold")
        assert answers == ["finished"]
        assert await outcome(handle) == ("stopped", None)


ENDS = {
    "p.complete('done')": "completed",
    "p.fail('no disk')": "failed",
    "process.exit(3)": "failed",
    "setTimeout(() => { throw new Error('stray') })": "failed",
    "process.kill(process.pid, 'SIGKILL')": "failed",
}


async def test_a_call_is_lost_with_its_process(stage: Stage) -> None:
    async with stage.host():
        for end, state in ENDS.items():
            handle = await stage.spawn(
                body(f"""
                p.onCall("end", () => {{ {end}; return new Promise(() => {{}}); }});
                p.ready();
                """)
            )
            with pytest.raises(ProcessLostError) as lost:
                await handle.call("end")
            assert (str(lost.value.info.state), lost.value.handed_over) == (state, True), end


async def test_what_was_answered_before_an_end_arrives(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(
            body("""
            p.onCall("last", (size) => { setImmediate(p.complete); return "x".repeat(size); });
            p.ready();
            """)
        )
        assert await handle.call("last", 8_000_000) == "x" * 8_000_000
        assert await outcome(handle) == ("completed", None)
        handle = await stage.spawn(
            body("""
            p.onCall("items", function* () { for (let n = 0; n < 5; n += 1) yield n; setImmediate(p.complete); });
            p.ready();
            """)
        )
        assert await items_of(handle, "items", None) == list(range(5))
        assert await outcome(handle) == ("completed", None)


async def test_an_answer_over_the_hosts_limits_fails_its_call_alone(stage: Stage) -> None:
    async with stage.host(limits=Limits(frame_bytes=1000)):
        handle = await stage.spawn("export const calls = { text: (size) => 'x'.repeat(size) };")
        sizes = range(940, 1010)
        failed = 0
        for size in sizes:
            try:
                assert await handle.call("text", size) == "x" * size
            except CallFailedError as error:
                assert error.error_type == "PayloadError"
                failed += 1
        assert 0 < failed < len(sizes)
        with pytest.raises(PayloadError):
            await handle.call("text", "x" * 1000)
        assert await handle.call("text", 3) == "xxx"
