"""Calls and streams of a backend in JavaScript, over the worker protocol, into processes of a real host."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.backend import both_programs, root, shown_by

__all__ = ["root"]

pytestmark = both_programs

TOOLS = """
import time

def square(payload):
    return payload["n"] ** 2

def fails(payload):
    raise ValueError("no number")

def loops(payload):
    while True:
        time.sleep(0.01)

def ends(payload):
    import os
    os._exit(3)

def count(payload):
    for number in range(payload["to"]):
        yield number
    if payload.get("fails"):
        raise ValueError("no more")

calls = {"square": square, "fails": fails, "loops": loops, "ends": ends, "count": count}
"""

RICH = """
const value = () => ({ at: new Date(0), files: [Buffer.from([0, 255])] });
export const calls = {
  value,
  async *values({ to }) { for (let n = 0; n < to; n += 1) yield value(); },
  wait: (_, { signal }) => new Promise((_, reject) => { signal.onabort = () => reject(signal.reason); }),
};
"""

HELPERS = """
const tools = await backendProcesses.spawn({ entry: "tools.py" });
const all = async (items) => { const read = []; for await (const item of items) read.push(item); return read; };
"""


@pytest.fixture(autouse=True)
def tools(root: Path) -> None:
    (root / "tools.py").write_text(TOOLS)
    (root / "rich.mjs").write_text(RICH)


async def test_calls_are_answered_and_streams_are_read(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        HELPERS
        + """
        said.push(await tools.call("square", { n: 3 }, { timeoutMs: 5000 }));
        said.push(await backendProcesses.call(tools.processId, "square", { n: 4 }));
        said.push(await Promise.all([...Array(200).keys()].map((n) => tools.call("square", { n }))));
        for (const window of [undefined, 1, 2, 64]) {
          said.push(await all(tools.stream("count", { to: 50 }, window === undefined ? {} : { window })));
        }
        const rich = await backendProcesses.spawn({ entry: "rich.mjs" });
        const show = ({ at, files }) => [at instanceof Date, at.getTime(), Buffer.isBuffer(files[0]), files[0][1]];
        said.push(show(await rich.call("value")), (await all(rich.stream("values", { to: 20 }))).map(show));
        """,
    )
    shown = [True, 0, True, 255]
    numbers = list(range(50))
    assert said == [9, 16, [n * n for n in range(200)], *[numbers] * 4, shown, [shown] * 20]


async def test_what_a_call_ends_with_is_thrown(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        HELPERS
        + """
        said.push(await refusal(() => tools.call("fails")));
        said.push(await refusal(() => tools.call("none")));
        said.push(await refusal(() => tools.call("square", { n: new Set() })));
        said.push(await refusal(() => tools.call("")));
        const read = [];
        said.push(await refusal(async () => {
          for await (const item of tools.stream("count", { to: 3, fails: true })) read.push(item);
        }), read);
        said.push(await refusal(() => tools.call("ends")));
        said.push(await refusal(() => tools.call("square", { n: 3 })));
        """,
    )
    failed, unknown, unsafe, empty, stream, read, lost, late = said
    assert (failed["name"], failed["failure"]["errorType"], failed["failure"]["text"]) == (
        "CallFailedError",
        "ValueError",
        "no number",
    )
    assert "Traceback" in failed["failure"]["traceback"]
    assert (unknown["name"], unknown["known"]) == (
        "UnknownMethodError",
        ["count", "ends", "fails", "loops", "square"],
    )
    assert (unsafe["name"], unsafe["message"]) == ("PayloadError", "payload.n: Set is not JSON-safe")
    assert empty["name"] == "PeerProtocolError"
    assert (stream["name"], stream["failure"]["text"], read) == ("CallFailedError", "no more", [0, 1, 2])
    assert (lost["name"], lost["handedOver"], lost["info"]["state"]) == ("ProcessLostError", True, "failed")
    assert (late["name"], late["handedOver"]) == ("ProcessLostError", False)


@pytest.mark.slow
async def test_a_call_that_is_given_up_rejects_at_once_and_is_cancelled(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        """
        const rich = await backendProcesses.spawn({ entry: "rich.mjs" });
        said.push(await refusal(() => rich.call("wait", null, { timeoutMs: 20 })));
        const controller = new AbortController();
        const waiting = refusal(() => rich.call("wait", null, { signal: controller.signal }));
        controller.abort(new RangeError("enough"));
        said.push(await waiting);
        said.push(await refusal(() => rich.call("wait", null, { signal: controller.signal })));
        said.push(await refusal(async () => {
          const items = rich.stream("values", { to: 100 }, { signal: AbortSignal.timeout(50) });
          for await (const item of items) await new Promise((go) => setTimeout(go, 5));
        }));
        for await (const item of rich.stream("values", { to: 1_000_000 })) break;
        said.push((await rich.call("value")).at.getTime());
        const stream = rich.stream("values", { to: 5 });
        const lost = refusal(async () => { for await (const item of stream) if (await spindle.closed, false) break; });
        const call = refusal(() => rich.call("wait"));
        await new Promise((go) => setTimeout(go, 50));
        spindle.close();
        said.push((await lost)?.name ?? "read", (await call).name);
        """,
    )
    late, aborted, refused, timed, value, lost, call = said
    assert late["name"] == "CallTimeoutError"
    assert (aborted["name"], aborted["message"]) == ("RangeError", "enough")
    assert (refused["name"], refused["message"]) == ("RangeError", "enough")
    assert timed["name"] == "TimeoutError"
    assert value == 0
    assert lost in ("read", "ConnectionLostError")
    assert call == "ConnectionLostError"


async def test_a_hung_call_has_its_process_killed(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        HELPERS
        + """
        said.push((await refusal(() => tools.call("loops", null, { timeoutMs: 50, overrun: "kill" }))).name);
        await until(() => states().includes("timed_out"));
        said.push(events.at(-1).exitReason);
        """,
        cancel_grace=0.1,
    )
    assert said == ["CallTimeoutError", "timed_out"]
