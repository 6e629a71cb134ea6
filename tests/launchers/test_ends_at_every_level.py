"""A terminal state means, at every level, that the process has been reaped and holds nothing any more."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from spindle_trio import Containment
from support.containment import levels, require
from support.fork_server import Forked, fork_host
from support.leftovers import describe

pytestmark = pytest.mark.usefixtures("no_survivors")


HOLDS = """
import fcntl, os, socket
def run(process):
    port, end = process.payload
    memory = b"x" * (150 * 1024 * 1024)  # which takes the kernel a while to take back
    lock = open("lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
    process.ready()
    if end == "kills its init":
        os.kill(os.getppid(), 9)
    elif end == "exits":
        os._exit(3)
    while True: pass
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.quick(3)
@levels()
@pytest.mark.parametrize("end", ["hangs", "exits", "is stopped"])
async def test_the_next_spawn_of_a_key_finds_what_the_last_one_held_free(
    tmp_path: Path, level: Containment, end: str
) -> None:
    await trio.to_thread.run_sync(require, level)
    async with fork_host(tmp_path, containment=level, grace_period=0.05) as forked:
        await holds_and_ends(forked, end)


async def test_so_it_does_after_one_that_has_killed_its_init(tmp_path: Path) -> None:
    async with fork_host(tmp_path, containment=Containment.SWEEP, grace_period=0.05) as forked:
        await holds_and_ends(forked, "kills its init")


async def holds_and_ends(forked: Forked, end: str) -> None:
    """Have three processes, one after the other, hold the same lock and port, and look at each terminal event."""
    still_there: list[str] = []
    forked.worker.backend_processes.on_lifecycle(
        lambda event: still_there.extend(look(pid, event.state)) if event.state.is_terminal else None
    )
    port = free_port()
    for _ in range(3):
        handle = await forked.spawn(HOLDS, payload=[port, end], key="the one", heartbeat_timeout=0.1)
        assert handle.pid is not None
        pid = handle.pid
        if end == "is stopped":
            await handle.stop()
        info = await handle.wait_ended()
        assert info.state in ("failed", "timed_out", "stopped"), info
    assert still_there == []


def look(pid: int, state: str) -> list[str]:
    return [f"{state}: {describe(pid)}"] if Path(f"/proc/{pid}").exists() else []
