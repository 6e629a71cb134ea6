"""Messages sent before an entry's last word arrive, whatever it does then."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from spindle_trio import DefaultLauncher, ProcessState, open_host
from support.javascript import needs_node

GUARD_SECONDS = 60
MESSAGES = 80
SIZE = 64 * 1024
GRACE = 2.5
"""Seconds until it is killed, by when all has to have arrived, although the machine may be busy."""

pytestmark = [needs_node, pytest.mark.usefixtures("no_survivors")]


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("last_word", "state", "error"),
    [
        ("process.complete('done')", ProcessState.COMPLETED, None),
        ("process.fail('no')", ProcessState.FAILED, "no"),
    ],
)
async def test_megabytes_arrive_although_the_event_loop_never_turns_again(
    tmp_path: Path, last_word: str, state: ProcessState, error: str | None
) -> None:
    source = f"""
        export const run = (process) => {{
          process.ready();
          for (let n = 0; n < {MESSAGES}; n += 1) process.send(`${{n}} ${{"x".repeat({SIZE})}}`);
          {last_word};
          for (;;);
        }};
    """
    (tmp_path / "entry.js").write_text(source, encoding="utf-8")
    with trio.fail_after(GUARD_SECONDS):
        async with (
            open_host(DefaultLauncher(preload=()), grace_period=GRACE) as host,
            host.open_worker("tests", root=tmp_path, user_id="ada") as worker,
        ):
            handle = await worker.backend_processes.spawn("entry.js")
            numbers = [int(str(payload).split()[0]) async for payload in handle.messages()]
            info = await handle.wait_ended()
    assert numbers == list(range(MESSAGES))
    assert info.state is state
    assert info.error == error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last_word", "after", "messages"),
    [
        ("process.complete('done')", "", ["before", "cleaned"]),
        ("process.fail('no')", "", ["before", "cleaned"]),
        ("process.complete('done')", "exit();", ["before", "at the exit"]),
        ("setTimeout(() => { process.complete(); process.send('late'); })", "", ["before", "cleaned"]),
    ],
)
async def test_nothing_that_is_sent_after_the_last_word_passes_but_for_the_clean_up(
    tmp_path: Path, last_word: str, after: str, messages: list[str]
) -> None:
    source = f"""
        import {{ exit }} from "node:process";
        export default async (process) => {{
          process.ready();
          process.send("before");
          {last_word};
          if ({"false" if "setTimeout" in last_word else "true"}) process.send("after");
          {f"globalThis.process.on('exit', () => process.send('at the exit')); {after}" if after else ""}
          return () => process.send("cleaned");
        }};
    """
    (tmp_path / "entry.mjs").write_text(source, encoding="utf-8")
    with trio.fail_after(GUARD_SECONDS):
        async with (
            open_host(DefaultLauncher(preload=())) as host,
            host.open_worker("tests", root=tmp_path, user_id="ada") as worker,
        ):
            handle = await worker.backend_processes.spawn("entry.mjs")
            assert [payload async for payload in handle.messages()] == messages
