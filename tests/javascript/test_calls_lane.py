"""What a JavaScript process does on its calls lane, frame by frame; no host sends some of these at just such a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from support.bare_runtime import BareRuntime, bare_runtime, both_programs
from support.javascript import body

pytestmark = both_programs

ANSWER, ITEM, END, FAILURE = 2, 3, 4, 6

READY = {"type": "ready", "protocol": 2, "calls": True, "concurrency": 16}

CANCELLED = {"cancelled": True}

HOLDS = """
const held = [];
p.onCall("hold", (name) => new Promise((resolve) => held.push(() => resolve(name))));
p.onCall("release", () => { held.shift()(); });
p.onCall("heldNow", () => held.length);
p.ready();
"""
"""Calls that wait until they are released, in order."""


def ready(runtime: BareRuntime, concurrency: int = 16) -> BareRuntime:
    """Hear that it is ready, and takes calls."""
    assert runtime.heard() == READY | {"concurrency": concurrency}
    return runtime


def test_calls_are_answered_in_order(tmp_path: Path, program: str) -> None:
    with bare_runtime(tmp_path, body("p.onCall('square', ({ n }) => n * n); p.ready();")) as runtime:
        ready(runtime).call(*([n, "square", None, {"n": n}] for n in range(1, 200)))
        assert runtime.says(199) == [[ANSWER, n, n * n] for n in range(1, 200)]


def test_a_handler_after_ready_is_told_of_once(tmp_path: Path, program: str) -> None:
    source = body("p.ready(); p.onCall('a', () => 1); p.onCall('b', () => 2);")
    with bare_runtime(tmp_path, source, program) as runtime:
        assert runtime.heard() == {"type": "ready", "protocol": 2}
        assert runtime.heard() == {"type": "calls", "concurrency": 16}
        runtime.call([1, "b", None, None])
        assert runtime.said() == [ANSWER, 1, 2]
        runtime.tell(type="stop")
        assert runtime.heard()["type"] == "stopped"


def test_a_host_that_offers_no_calls_hears_nothing_of_them(tmp_path: Path, program: str) -> None:
    source = body("p.onCall('a', () => 1); p.ready(); p.onCall('b', () => 1); p.complete('all the same');")
    with bare_runtime(tmp_path, source, program, offers=1) as runtime:
        assert runtime.heard() == {"type": "ready"}
        assert runtime.heard()["result"] == "all the same"


@pytest.mark.parametrize("offered", [{}, {"protocol": 2}])
def test_a_process_without_handlers_takes_no_calls(tmp_path: Path, program: str, offered: dict[str, object]) -> None:
    with bare_runtime(tmp_path, body("p.ready();"), program, offers=2 if offered else None) as runtime:
        assert runtime.heard() == {"type": "ready", **offered}


def test_a_cancel_may_come_before_its_call(tmp_path: Path, program: str) -> None:
    source = body("p.onCall('square', (n) => n * n); p.ready(); p.onMessage((m) => p.send(m));")
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).tell(type="cancel", call=2)
        runtime.tell(type="cancel", call=7)
        runtime.messages.send(b"1")
        assert runtime.messages.receive() == b"1"
        runtime.call([1, "square", None, 3], [2, "square", None, 3], [3, "square", None, 4])
        assert sorted(runtime.says(3)) == [[ANSWER, 1, 9], [ANSWER, 3, 16], [FAILURE, 2, CANCELLED]]


def test_a_call_that_waits_for_its_turn_is_cancelled_at_once(tmp_path: Path, program: str) -> None:
    source = body("""
        p.limitCalls(1);
        p.onCall("hold", () => { p.send("begun"); return new Promise(() => {}); });
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime, 1).call([1, "hold", None, None], [2, "hold", None, None], [3, "hold", None, None])
        assert runtime.messages.receive() == b'"begun"'  # all three have been read with it
        runtime.tell(type="cancel", call=2)
        assert runtime.said() == [FAILURE, 2, CANCELLED]


def test_a_call_that_was_cancelled_and_never_begins_is_ended_after_a_stop(tmp_path: Path, program: str) -> None:
    source = body("""
        p.limitCalls(1);
        p.onStop(() => { p.send("stopping"); });
        p.onCall("hold", () => { p.send("begun"); return new Promise(() => {}); });
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime, 1).call([1, "hold", None, None], [2, "hold", None, None])
        assert runtime.messages.receive() == b'"begun"'  # both have been read with it
        runtime.tell(type="cancel", call=4)
        runtime.tell(type="stop")
        assert runtime.messages.receive() == b'"stopping"'
        runtime.tell(type="cancel", call=2)
        assert runtime.said() == [FAILURE, 2, CANCELLED]
        runtime.call([3, "hold", None, None], [4, "hold", None, None])
        assert runtime.said() == [FAILURE, 4, CANCELLED]


def test_no_call_begins_after_the_handler_that_ends_the_process(tmp_path: Path, program: str) -> None:
    source = body("p.onCall('end', () => { p.complete(); return 1; }); p.ready();")
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "end", None, None], [2, "none", None, None])
        assert runtime.said() == [ANSWER, 1, 1]
        assert count_left(runtime) == 0


def test_a_cancel_after_the_end_means_nothing(tmp_path: Path, program: str) -> None:
    with bare_runtime(tmp_path, body("p.onCall('one', () => 1); p.ready();")) as runtime:
        ready(runtime).call([1, "one", None, None])
        assert runtime.said() == [ANSWER, 1, 1]
        runtime.tell(type="cancel", call=1)
        runtime.tell(type="credit", call=1, items=5)
        runtime.call([2, "one", None, None])
        assert runtime.said() == [ANSWER, 2, 1]


@pytest.mark.parametrize(("limit", "held"), [("", 16), ("p.limitCalls(3);", 3)])
def test_so_many_calls_run_at_once(tmp_path: Path, program: str, limit: str, held: int) -> None:
    """One that comes behind them begins as soon as one of them has ended."""
    source = body("""
        let running = 0;
        p.onCall("hold", () => { running += 1; p.send(running); return new Promise(() => {}); });
        p.onMessage(() => p.send("no more"));
        p.ready();
    """)
    with bare_runtime(tmp_path, source.replace("p.ready();", limit + "p.ready();"), program) as runtime:
        ready(runtime, held).call(*([n, "hold", None, None] for n in range(1, 31)))
        counts = [runtime.messages.receive() for _ in range(held)]
        assert counts == [str(n).encode() for n in range(1, held + 1)]
        runtime.messages.send(b"0")
        assert runtime.messages.receive() == b'"no more"'


def test_the_host_is_told_of_a_limit_whenever_it_changes(tmp_path: Path, program: str) -> None:
    source = body("p.onCall('a', () => 1); p.ready(); for (const n of [16, 3, 3, 1e300]) p.limitCalls(n);")
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime)
        assert runtime.heard() == {"type": "calls", "concurrency": 3}
        assert runtime.heard() == {"type": "calls", "concurrency": 65_536}
        runtime.tell(type="stop")
        assert runtime.heard()["type"] == "stopped"


def test_a_limit_that_is_raised_lets_calls_begin(tmp_path: Path, program: str) -> None:
    source = body(HOLDS + "p.limitCalls(1); p.onMessage((n) => p.limitCalls(n));")
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "hold", None, "a"], [2, "hold", None, "b"], [3, "heldNow", None, None])
        runtime.messages.send(b"3")
        assert runtime.said() == [ANSWER, 3, 2]


def test_a_limit_has_to_be_a_count(tmp_path: Path, program: str) -> None:
    wrong = ["0", "-1", "1.5", "'2'", "undefined", "Infinity"]
    for error in errors_of([f"p.limitCalls({one})" for one in wrong], tmp_path, program):
        assert error.startswith("RangeError: limitCalls() takes an integer of 1 or more, not ")


def errors_of(statements: Iterable[str], folder: Path, program: str) -> list[str]:
    """Run each statement in one entry, and list what they throw, or "nothing"."""
    tried = "".join(
        f"try {{ {statement}; p.send('nothing'); }} catch (error) {{ p.send(`${{error}}`); }}\n"
        for statement in statements
    )
    with bare_runtime(folder, body(tried + "p.complete();"), program) as runtime:
        count = runtime.heard()["messages"]
        return [json.loads(runtime.messages.receive()) for _ in range(count)]


STREAM = """
p.onCall("count", function* ({ to }) {
  try {
    for (let n = 0; n < to; n += 1) { p.send(n); yield n; }
  } finally {
    p.send("closed");
  }
});
p.onCall("slowly", async function* ({ to }) {
  try {
    for (let n = 0; n < to; n += 1) { await null; p.send(n); yield n; }
  } finally {
    await null;
    p.send("closed");
  }
});
p.ready();
"""


@pytest.mark.parametrize("method", ["count", "slowly"])
def test_a_stream_goes_as_far_as_its_credit(tmp_path: Path, program: str, method: str) -> None:
    with bare_runtime(tmp_path, body(STREAM), program) as runtime:
        ready(runtime).call([1, method, None, {"to": 5}, 2])
        assert runtime.says(2) == [[ITEM, 1, 0], [ITEM, 1, 1]]
        assert [runtime.messages.receive() for _ in range(2)] == [b"0", b"1"]
        runtime.tell(type="credit", call=1, items=1)
        assert runtime.said() == [ITEM, 1, 2]
        runtime.tell(type="credit", call=1, items=10)
        assert runtime.says(3) == [[ITEM, 1, 3], [ITEM, 1, 4], [END, 1]]


@pytest.mark.parametrize("method", ["count", "slowly"])
def test_a_cancelled_stream_cleans_up(tmp_path: Path, program: str, method: str) -> None:
    with bare_runtime(tmp_path, body(STREAM), program) as runtime:
        ready(runtime).call([1, method, None, {"to": 5}, 1])
        assert runtime.said() == [ITEM, 1, 0]
        runtime.tell(type="cancel", call=1)
        assert runtime.said() == [FAILURE, 1, CANCELLED]
        assert [runtime.messages.receive() for _ in range(2)] == [b"0", b'"closed"']


def test_a_generator_that_runs_when_it_is_cancelled_is_closed_at_its_next_yield(tmp_path: Path, program: str) -> None:
    source = body("""
        let go;
        p.onCall("wait", async function* (_, call) {
          try {
            call.signal.onabort = () => p.send("aborted");
            await new Promise((resolve) => { go = resolve; p.send("waits"); });
            yield 1;
            p.send("not reached");
          } finally {
            p.send("closed");
          }
        });
        p.onMessage(() => go());
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "wait", None, None, 5])
        assert runtime.messages.receive() == b'"waits"'
        runtime.tell(type="cancel", call=1)
        assert runtime.messages.receive() == b'"aborted"'
        runtime.messages.send(b"0")
        assert runtime.messages.receive() == b'"closed"'
        assert runtime.said() == [FAILURE, 1, CANCELLED]


def test_a_cancelled_handler_that_answers_all_the_same_ends_its_call_once(tmp_path: Path, program: str) -> None:
    source = body("""
        p.onCall("late", (_, { signal }) => new Promise((go) => { signal.onabort = () => go("late"); }));
        p.onCall("wrong", (_, { signal }) => new Promise((_, no) => { signal.onabort = () => no(new Error("no")); }));
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "late", None, None], [2, "wrong", None, None], [3, "none", None, None])
        assert runtime.said()[:2] == [FAILURE, 3]
        runtime.tell(type="cancel", call=1)
        runtime.tell(type="cancel", call=1)
        assert runtime.said() == [ANSWER, 1, "late"]
        runtime.tell(type="cancel", call=2)
        _, call, about = runtime.said()
        assert (call, about["error"], about["text"]) == (2, "Error", "no")


def test_a_generator_that_throws_in_its_clean_up_is_a_failure(tmp_path: Path, program: str) -> None:
    source = body("""
        p.onCall("count", function* () { try { yield 1; yield 2; } finally { throw new RangeError("cannot close"); } });
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "count", None, None, 5], [2, "count", None, None, 1])
        first = {}
        for kind, call, *rest in runtime.says(4):
            first.setdefault(call, []).append((kind, *rest))
        assert [kind for kind, *_ in first[1]] == [ITEM, ITEM, FAILURE]
        assert (first[1][2][1]["error"], first[1][2][1]["text"]) == ("RangeError", "cannot close")
        runtime.tell(type="cancel", call=2)
        kind, call, about = runtime.said()
        assert (kind, call, about["error"]) == (FAILURE, 2, "RangeError")


def test_a_time_that_is_over_cancels_there(tmp_path: Path, program: str) -> None:
    """Even if the host's cancel does not come."""
    source = body("""
        p.onCall("wait", (_, call) => new Promise((_, reject) => {
          call.signal.addEventListener("abort", () => reject(call.signal.reason));
        }));
        p.onCall("loop", (_, call) => { for (;;) call.check(); });
        p.onCall("left", (_, call) => [call.method, `${call.deadline - performance.now()}`, call.isCancelled]);
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "wait", 20, None], [2, "loop", 20, None])
        assert sorted(runtime.says(2)) == [[FAILURE, 1, CANCELLED], [FAILURE, 2, CANCELLED]]
        runtime.call([3, "left", 60_000, None], [4, "left", None, None], [5, "left", 0, None])
        (_, _, left), endless, over = sorted(runtime.says(3), key=lambda frame: int(frame[1]))
        assert 0 < float(left[1]) <= 60_000
        assert (left[0], left[2]) == ("left", False)
        assert endless == [ANSWER, 4, ["left", "Infinity", False]]
        assert over == [FAILURE, 5, CANCELLED]


def test_events_have_their_turn_between_calls(tmp_path: Path, program: str) -> None:
    """Many short handlers must not keep a stop waiting, nor the heartbeat."""
    source = body("""
        p.onCall("work", () => { for (const end = performance.now() + 2; performance.now() < end; ); });
        p.onMessage((m) => p.send(m));
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call(*([n, "work", None, None] for n in range(1, 1001)))
        assert runtime.said()[0] == ANSWER
        runtime.messages.send(b"1")
        assert runtime.messages.receive() == b"1"
        runtime.tell(type="stop")
        assert runtime.heard()["type"] == "stopped"
        assert 0 < count_left(runtime) < 900


def count_left(runtime: BareRuntime) -> int:
    """Read the rest of the calls lane."""
    count = 0
    while True:
        try:
            runtime.said()
        except (EOFError, ConnectionResetError):  # the second one if it has left calls unread
            return count
        count += 1


def test_running_handlers_may_finish_when_the_process_is_stopped(tmp_path: Path, program: str) -> None:
    with bare_runtime(tmp_path, body(HOLDS + "p.onMessage(() => held.shift()());")) as runtime:
        ready(runtime).call([1, "hold", None, "a"], [2, "heldNow", None, None])
        assert runtime.said() == [ANSWER, 2, 1]
        runtime.tell(type="stop")
        runtime.messages.send(b"0")
        assert runtime.said() == [ANSWER, 1, "a"]
        assert [runtime.heard()["type"], runtime.heard()["type"]] == ["stopped", "exiting"]
        assert count_left(runtime) == 0


def test_no_call_begins_after_a_stop(tmp_path: Path, program: str) -> None:
    source = body(
        HOLDS + "p.onStop(() => p.send('told')); p.onMessage(() => { held.shift()(); setTimeout(p.complete); });"
    )
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "hold", None, "a"], [2, "heldNow", None, None])
        assert runtime.said() == [ANSWER, 2, 1]
        runtime.tell(type="stop")
        assert runtime.messages.receive() == b'"told"'
        runtime.call([3, "heldNow", None, None])
        runtime.messages.send(b"0")
        assert runtime.said() == [ANSWER, 1, "a"]
        assert runtime.heard()["type"] == "complete"
        assert runtime.heard()["type"] == "exiting"
        assert count_left(runtime) == 0


@pytest.mark.parametrize("end", ["p.complete('done')", "p.fail('no disk')"])
def test_an_end_cancels_what_runs(tmp_path: Path, program: str, end: str) -> None:
    source = body(f"""
        p.onCall("wait", (_, call) => new Promise(() => call.signal.onabort = () => p.send("aborted")));
        p.onCall("count", async function* () {{
          try {{ yield 1; yield 2; }} finally {{ await null; p.send("closed"); }}
        }});
        p.onMessage(() => {end});
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "wait", None, None], [2, "count", None, None, 1])
        assert runtime.said() == [ITEM, 2, 1]
        runtime.messages.send(b"0")
        assert [runtime.messages.receive() for _ in range(2)] == [b'"aborted"', b'"closed"']
        assert runtime.said() == [FAILURE, 2, CANCELLED]


def test_dates_and_bytes_travel_in_the_tagged_form(tmp_path: Path, program: str) -> None:
    source = body("""
        const value = () => ({ at: new Date(0), data: Buffer.from([0, 255]) });
        p.onCall("once", value);
        p.onCall("stream", function* () { yield value(); });
        p.ready();
    """)
    tagged = b'{"at":{"$date":"1970-01-01T00:00:00.000Z"},"data":{"$bytes":"AP8="}}]'
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "once", None, None], [2, "stream", None, None, 1])
        assert runtime.calls.receive() == b"\x02$[1," + tagged
        assert runtime.calls.receive() == b"\x03$[2," + tagged


def test_a_frame_is_no_longer_than_the_host_allows(tmp_path: Path, program: str) -> None:
    """The frame around an answer counts; what is a little too long is refused in the process."""
    source = body("p.onCall('text', (length) => 'x'.repeat(length)); p.ready();")
    limits: dict[str, Any] = {"frameBytes": 1000, "depth": 8, "values": 100, "textBytes": None, "containerEntries": 2}
    with bare_runtime(tmp_path, source, program, limits=limits) as runtime:
        ready(runtime)
        for call, length in enumerate(range(900, 1010), start=1):
            runtime.call([call, "text", None, length])
            frame = runtime.calls.receive()
            assert len(frame) <= 1000
            assert frame[0] in (ANSWER, FAILURE)
        assert b'"error":"PayloadError"' in frame
        runtime.call([call + 1, "none", None, None])
        assert runtime.said() == [FAILURE, call + 1, {"known": ["text"]}]


THROWS = {
    "throw new RangeError('too far')": ("RangeError", "too far"),
    "throw 'a text'": ("string", "a text"),
    "throw undefined": ("undefined", "undefined"),
    "throw { code: 7 }": ("object", "{ code: 7 }"),
    "throw Object.assign(new Error('no'), { name: 'Mine' })": ("Mine", "no"),
    "throw Object.defineProperty(new Error(), 'message', { get() { throw 1; } })": (
        "Error",
        "(what was thrown cannot be shown)",
    ),
    "throw new Proxy({}, { get() { throw 1; }, getPrototypeOf() { throw 1; } })": ("object", "{}"),
    "throw new AggregateError([new Error('one')], 'many')": ("AggregateError", "many"),
    "return Promise.reject(new TypeError('later'))": ("TypeError", "later"),
    "return { then() { throw new TypeError('then') } }": ("TypeError", "then"),
    "return new Set([1])": ("PayloadError", "answer: Set is not JSON-safe"),
    "return { items: [1, () => 1] }": ("PayloadError", "answer.items[1]: function is not JSON-safe"),
    "return { get a() { throw new RangeError('getter') } }": ("RangeError", "getter"),
    "return (function* () { yield 1; })()": (
        "TypeError",
        '"m" has returned a generator: read it with stream(), not with call()',
    ),
    "(function again() { again(); })()": ("RangeError", "Maximum call stack size exceeded"),
}


def test_what_a_handler_throws_ends_its_call_and_nothing_else(tmp_path: Path, program: str) -> None:
    handlers = "\n".join(f"() => {{ {statement} }}," for statement in THROWS)
    source = body(f"const handlers = [{handlers}]; p.onCall('m', (n) => handlers[n]()); p.ready();")
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call(*([n + 1, "m", None, n] for n in range(len(THROWS))))
        failures = sorted(runtime.says(len(THROWS)), key=lambda frame: int(frame[1]))
        assert {kind for kind, *_ in failures} == {FAILURE}
        said = {statement: about for statement, (_, _, about) in zip(THROWS, failures, strict=True)}
        shown = {statement: (about["error"], about["text"].rstrip(".")) for statement, about in said.items()}
        differs = {name: (shown[name], THROWS[name]) for name in THROWS if shown[name] != THROWS[name]}
        assert not differs or program == "bun"  # whose own texts differ
        assert "too far\n    at " in said["throw new RangeError('too far')"]["traceback"] or program == "bun"
        assert "traceback" not in said["throw 'a text'"]
        runtime.call([100, "m", None, "none"])
        assert runtime.said()[2]["error"] == "TypeError"


def test_a_call_and_a_stream_are_told_apart(tmp_path: Path, program: str) -> None:
    source = body("""
        p.onCall("once", () => 1);
        p.onCall("many", function* () { p.send("run"); yield 1; });
        p.onCall("bound", (function* () { yield this; }).bind(7));
        p.onCall("iterable", async () => ({ async *[Symbol.asyncIterator]() { yield 8; } }));
        p.onMessage((m) => p.send(m));
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "once", None, None, 5], [2, "many", None, None])
        about = dict(frame[1:] for frame in runtime.says(2))
        assert (about[1]["error"], about[1]["text"]) == (
            "TypeError",
            '"once" is no generator, and answers once: use call(), not stream()',
        )
        assert about[2] == {  # nothing was called, and so there is no traceback
            "error": "TypeError",
            "text": '"many" is a generator: read it with stream(), not with call()',
        }
        runtime.messages.send(b"1")
        assert runtime.messages.receive() == b"1"
        runtime.call([3, "bound", None, None, 5])
        assert runtime.says(2) == [[ITEM, 3, 7], [END, 3]]
        runtime.call([4, "iterable", None, None, 5])
        assert runtime.says(2) == [[ITEM, 4, 8], [END, 4]]


def test_an_item_that_cannot_be_sent_closes_the_generator(tmp_path: Path, program: str) -> None:
    source = body("""
        p.onCall("m", function* () {
          try { yield 1; yield new Map(); } finally { p.send("closed"); throw new Error("x"); }
        });
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "m", None, None, 5])
        assert runtime.said() == [ITEM, 1, 1]
        _, _, about = runtime.said()
        assert (about["error"], about["text"]) == ("PayloadError", "item: Map is not JSON-safe")
        assert runtime.messages.receive() == b'"closed"'


def test_a_method_that_is_not_there_names_those_that_are(tmp_path: Path, program: str) -> None:
    source = body("""
        p.onCall("b", () => 1);
        p.onCall(function a() { return 2; });
        const off = p.onCall("c", () => 3);
        off(); off();
        p.onCall("c", () => 4);
        off();
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call(*([n + 1, name, None, 0] for n, name in enumerate(["a", "c", "toString", "__proto__"])))
        known = {"known": ["a", "b", "c"]}
        assert runtime.says(4) == [[ANSWER, 1, 2], [ANSWER, 2, 4], [FAILURE, 3, known], [FAILURE, 4, known]]


WRONG = {
    "p.onCall()": "TypeError: the name of a method must be a string, not undefined",
    "p.onCall('a')": "TypeError: a handler must be a function, not undefined",
    "p.onCall(7, () => 1)": "TypeError: the name of a method must be a string, not number",
    "p.onCall('', () => 1)": 'TypeError: the name is empty: write onCall("name", handler)',
    "p.onCall(() => 1)": 'TypeError: the function has no name: write onCall("name", handler)',
    "p.onCall('\\ud800', () => 1)": "TypeError: the name of a method has a lone surrogate",
    "p.onCall('x'.repeat(1025), () => 1)": f"RangeError: the name of a method has more than 1024 bytes: {'x' * 40}...",
    "p.onCall('a', () => 1); p.onCall('a', () => 1)": 'Error: the method "a" has a handler already: '
    "register each name once",
    "p.call": "Error: process.call is there inside a handler of a call, while it serves one",
}


def test_a_handler_has_to_be_a_function_with_a_name_of_its_own(tmp_path: Path, program: str) -> None:
    assert errors_of(WRONG, tmp_path, program) == list(WRONG.values())


def test_each_handler_sees_its_own_call(tmp_path: Path, program: str) -> None:
    source = body("""
        const name = async () => { await null; await new Promise(setImmediate); return p.call.method; };
        p.onCall("a", async (_, call) => [await name(), call === p.call]);
        p.onCall("b", async () => [await name(), (await new Promise((go) => setTimeout(() => go(p.call), 1))).method]);
        p.onCall("c", async function* () { yield p.call.method; await null; yield name(); });
        p.ready();
    """)
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "a", None, 0], [2, "b", None, 0], [3, "c", None, 0, 5])
        assert sorted(runtime.says(5)) == [
            [ANSWER, 1, ["a", True]],
            [ANSWER, 2, ["b", "b"]],
            [ITEM, 3, "c"],
            [ITEM, 3, "c"],
            [END, 3],
        ]


MODULES = {
    "export const calls = { square: ({ n }) => n * n, async late() { return 1; } };": (9, 1),
    "export const calls = { square({ n }, call) { call.check(); return n * n; }, late: (_, call) => call.method };": (
        9,
        "late",
    ),
}


@pytest.mark.parametrize("source", MODULES)
def test_a_module_may_export_calls_alone(tmp_path: Path, program: str, source: str) -> None:
    with bare_runtime(tmp_path, source, program) as runtime:
        ready(runtime).call([1, "square", None, {"n": 3}], [2, "late", None, None])
        assert runtime.says(2) == [[ANSWER, n + 1, answer] for n, answer in enumerate(MODULES[source])]
        runtime.tell(type="stop")
        assert runtime.heard()["type"] == "stopped"


def test_a_run_counts_before_calls(tmp_path: Path, program: str) -> None:
    source = "export const calls = { a: () => 1 }; export const run = (p) => p.complete('run');"
    with bare_runtime(tmp_path, source, program) as runtime:
        assert runtime.heard()["result"] == "run"


UNFIT = {
    "export const calls = {};": "exports calls that hold no function by name",
    "export const calls = [() => 1];": "exports calls that hold no function by name",
    "export const calls = () => 1;": "exports calls that hold no function by name",
    "export const calls = { a: () => 1, b: 2 };": 'exports calls of which "b" is no function',
}


@pytest.mark.parametrize("source", UNFIT)
def test_calls_have_to_be_functions_by_name(tmp_path: Path, program: str, source: str) -> None:
    with bare_runtime(tmp_path, source, program) as runtime:
        assert UNFIT[source] in runtime.heard()["error"]


def test_a_handler_keeps_an_entry_alive_that_is_not_ready(tmp_path: Path, program: str) -> None:
    source = body("p.onCall('a', () => 1); return 'a value that does not count';")
    with bare_runtime(tmp_path, source, program) as runtime:
        runtime.tell(type="stop")
        assert runtime.heard()["type"] == "stopped"
