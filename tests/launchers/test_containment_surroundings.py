"""Containment in unusual surroundings: a host that has been copied by a fork, or is nested in an entry; leftovers."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from containment_support import levels, require
from fork_server_support import LAST_SECONDS, none_survives
from spindle_trio import Containment


@pytest.fixture(autouse=True)
def _no_survivors(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with none_survives(monkeypatch):
        yield


COPIED_HOST = """
import os, signal, sys
import trio
import spindle_trio as spindle
async def main():
    launcher = spindle.ForkServerLauncher(preload=(), spares=1, containment=sys.argv[2])
    async with spindle.open_host(launcher) as host, host.open_worker("w", root=sys.argv[1], user_id="ada") as worker:
        handle = await worker.backend_processes.spawn("entry.py")
        copy = os.fork()  # as `multiprocessing` does it
        if copy == 0:
            signal.pause()
        print(handle.pid, copy, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@levels()
def test_a_forked_copy_of_a_host_that_is_killed_keeps_no_process_alive(tmp_path: Path, level: Containment) -> None:
    """The copy has the socket to the fork server open, which therefore sees no end of it."""
    require(level)
    (tmp_path / "entry.py").write_text("def run(process):\n    process.ready()\n    while True: pass")
    (tmp_path / "host.py").write_text(COPIED_HOST)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "host.py"), str(tmp_path), level],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as host:
        assert host.stdout is not None
        entry, copy = map(int, host.stdout.readline().split())
        pidfd = os.pidfd_open(entry)
        try:
            host.kill()
            ended, _, _ = select.select([pidfd], [], [], LAST_SECONDS)
        finally:
            os.kill(copy, signal.SIGKILL)
            os.close(pidfd)
    assert ended
