"""Children that turn against their parent: the server that has forked them all, or an init of their own.

Where each process has an init, that is its parent, and nobody else notices what happens to it; in a PID namespace of
its own the system protects it besides. Elsewhere the parent is everybody's server: what happens to that happens to all.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from spindle_trio import StartupTimeoutError
from support.contract import exists
from support.fork_server import wait_state_of, wait_until
from support.reliability import neighbourhood, server_of, told_of

INIT_LEVELS = {"pidns", "sweep"}

WAIT = 10.0
"""How long a server may take to be replaced, its pauses included."""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_who_kills_its_server_ends_all_of_its_processes_once_and_it_is_replaced(
    level: str, tmp_path: Path, number: int
) -> None:
    """Row 6."""
    if level in INIT_LEVELS:
        pytest.skip(f"at {level} the parent of a process is an init of its own")
    async with neighbourhood(level, tmp_path) as place:
        server = server_of(place.launcher)
        assert server is not None
        there = [handle.pid for handle in place.neighbours]
        handle = await place.spawn("hostile/hurts_its_parent", payload=int(number))
        everybody = [handle, *place.neighbours]
        with trio.fail_after(WAIT):
            for ended in everybody:
                await ended.wait_ended()
            await wait_until(lambda: server_of(place.launcher) not in (None, server))
        for ended in everybody:
            assert place.fate(ended).states == ["starting", "running", "failed"]
            assert (
                ended.info.error == f"ended together with its fork server (pid {server}) without complete() or fail()"
            )
        assert not any(exists(pid) for pid in there if pid is not None)
        place.neighbours.clear()
        await place.settle(4)


async def test_who_stops_its_server_stops_no_process_and_launches_wait_until_it_goes_on(
    level: str, tmp_path: Path
) -> None:
    """Row 7."""
    if level in INIT_LEVELS:
        pytest.skip(f"at {level} the parent of a process is an init of its own")
    async with neighbourhood(level, tmp_path) as place:
        server = server_of(place.launcher)
        assert server is not None
        handle = await place.spawn("hostile/hurts_its_parent", payload=int(signal.SIGSTOP))
        try:
            await wait_state_of(server, "T")
            await place.all_answer()
            with pytest.raises(StartupTimeoutError):
                await place.spawn("well_behaved", startup_timeout=0.5)
            await handle.stop()
            assert place.fate(handle).states == ["starting", "running", "stopping", "stopped"]
        finally:
            os.kill(server, signal.SIGCONT)
        await place.all_answer()
        await place.settle(4)


async def test_who_turns_against_its_init_hurts_itself_at_most(level: str, tmp_path: Path) -> None:
    if level not in INIT_LEVELS:
        pytest.skip(f"at {level} a process has no init of its own")
    async with neighbourhood(level, tmp_path) as place:
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            with told_of(number):
                before = place.marked()
                handle = await place.spawn("hostile/hurts_its_parent", payload=int(number), heartbeat_timeout=0.5)
                await handle.wait_ended()
                fate = place.fate(handle)
                assert fate.states in (["starting", "running", "failed"], ["starting", "running", "timed_out"])
                await place.gone(fate, before)
                await place.all_answer()
