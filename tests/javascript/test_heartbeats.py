"""The watchdog over JavaScript processes, and what is known of what it ended."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from spindle_trio import ProcessHandle, ProcessState
from support.contract import stderr_of
from support.javascript import SLACK, Stage, body, outcome

HEARTBEAT = 0.5


async def hang(stage: Stage, source: str) -> ProcessHandle:
    """Run an entry until its watchdog ends it, which has to be in time."""
    handle = await stage.end(source, heartbeat_timeout=HEARTBEAT)
    info = handle.info
    assert info.state is ProcessState.TIMED_OUT
    assert info.ended_at is not None
    assert info.last_heartbeat_at is not None
    assert HEARTBEAT - 0.01 <= (info.ended_at - info.last_heartbeat_at).total_seconds() < HEARTBEAT + SLACK
    return handle


@pytest.mark.slow
async def test_beats_keep_a_process_alive_and_messages_do_not(stage: Stage) -> None:
    async with stage.host():
        beats = await stage.spawn(
            body("p.ready(); setInterval(p.heartbeat, p.heartbeatTimeoutMs / 10);"), heartbeat_timeout=HEARTBEAT
        )
        before = beats.info.last_heartbeat_at
        await hang(stage, body("p.ready(); setInterval(() => p.send('alive'), 20); p.onMessage(() => {});"))
        assert beats.state is ProcessState.RUNNING
        assert before is not None
        assert beats.info.last_heartbeat_at is not None
        assert beats.info.last_heartbeat_at > before
        await beats.stop()


async def test_a_heartbeat_before_ready_changes_nothing(stage: Stage) -> None:
    async with stage.host():
        assert await stage.result(body("p.heartbeat(); p.ready(); p.complete('fine');")) == "fine"


async def test_a_wedged_event_loop_is_killed_in_time_and_shows_what_it_printed(stage: Stage) -> None:
    async with stage.host():
        handle = await hang(stage, body("console.error('counting'); p.ready(); for (;;);"))
    post_mortem = handle.post_mortem
    assert post_mortem is not None
    assert post_mortem.error == f"no heartbeat for {HEARTBEAT:g} s; JavaScript leaves no stacks"
    assert (post_mortem.stderr, post_mortem.stacks) == ("counting", None)
    assert post_mortem.exit_status == "killed by SIGKILL, sent by its host"
    assert post_mortem.since_heartbeat is not None
    assert post_mortem.since_heartbeat >= HEARTBEAT - 0.01


@pytest.mark.slow
async def test_all_ways_to_hang_are_the_same(stage: Stage) -> None:
    ways = {
        "a wait of the thread": "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);",
        "a program that is waited for": "execSync('sleep 1000');",
        "promises that let no timer run": "setInterval(p.heartbeat, 10); (async () => { for (;;) await null; })();",
        "an expression": "/(a+)+$/.test('a'.repeat(40) + 'b');",
        "nothing at all": "await new Promise(() => {});",
    }
    async with stage.host():
        await stage.for_each(
            {
                way: body(f"p.ready(); {code}", head="import { execSync } from 'node:child_process';")
                for way, code in ways.items()
            },
            lambda source: hang(stage, source),
        )


async def test_a_process_that_a_signal_has_stopped_says_so(stage: Stage) -> None:
    async with stage.host():
        handle = await stage.spawn(body("p.ready(); setInterval(p.heartbeat, 20);"), heartbeat_timeout=HEARTBEAT)
        assert handle.pid is not None
        os.kill(handle.pid, signal.SIGSTOP)
        assert await outcome(handle) == ("timed_out", f"no heartbeat for {HEARTBEAT:g} s; it was stopped by a signal")


@pytest.mark.slow
async def test_a_hang_before_ready_is_a_start_that_timed_out(stage: Stage) -> None:
    async with stage.host():
        for source in ("for (;;);", body("for (;;);"), body("await new Promise(() => {});")):
            try:
                await stage.spawn(f"console.error('connecting');\n{source}", startup_timeout=1)
            except trio.TooSlowError:
                raise
            except Exception as error:
                assert "not ready within 1 s" in str(error)
                assert "connecting" in str(error)
            else:
                raise AssertionError("it was never ready")
    assert [str(event.state) for event in stage.events if event.state.is_terminal] == ["timed_out"] * 3


async def test_an_event_loop_that_hangs_while_its_clean_up_runs_is_ended(stage: Stage) -> None:
    async with stage.host(grace_period=0.3):
        handle = await stage.end(body("p.ready(); p.fail('no disk'); return () => { console.error('x'); for (;;); };"))
    assert await outcome(handle) == ("failed", "no disk")
    assert stderr_of(handle) == "x\n"
