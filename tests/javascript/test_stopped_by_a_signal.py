"""A JavaScript process that a signal has stopped: found by the watchdog, and told for what it is."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from spindle_trio import DefaultLauncher, ProcessState, open_host
from support.javascript import needs_node

GUARD_SECONDS = 60
HEARTBEAT_TIMEOUT = 1.0

pytestmark = [needs_node, pytest.mark.usefixtures("no_survivors")]


async def test_a_javascript_process_that_a_signal_has_stopped_is_killed_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "entry.js").write_text("export const run = (process) => process.ready();", encoding="utf-8")
    with trio.fail_after(GUARD_SECONDS):
        async with (
            open_host(DefaultLauncher(preload=())) as host,
            host.open_worker("tests", root=tmp_path, user_id="ada") as worker,
        ):
            handle = await worker.backend_processes.spawn("entry.js", heartbeat_timeout=HEARTBEAT_TIMEOUT)
            assert handle.pid is not None
            os.kill(handle.pid, signal.SIGSTOP)
            info = await handle.wait_ended()
    assert info.state is ProcessState.TIMED_OUT
    assert info.error == "no heartbeat for 1 s; it was stopped by a signal"
