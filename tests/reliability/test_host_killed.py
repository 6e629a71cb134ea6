"""A host that is killed by SIGKILL takes all of its processes along, whatever these do (reliability, rows 1 and 2).

Each repeat is a program of its own that spawns a row of processes, and says the number of each. Somewhere on its way it
is killed. What is promised beyond its own processes depends on the level of containment:

* What they have started goes with them where somebody or something ends the whole tree: the kernel, where that is a
  namespace, and elsewhere a program, which must not have been stopped.
* So does a process that has cleared its parent-death signal. At the weakest level nobody else ends it: the server dies
  together with its host.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.leftovers import none_survives
from support.reliability import ENTRIES, NAMESPACE_LEVELS, STRONG_LEVELS

REPEATS = 10
QUICK_REPEATS = 4
"""One for each of `STOPPED`."""
SOAK_REPEATS = 200

STOPPED = ["nobody", "the server", "a child", "the server and a child"]
"""The program to stop by SIGSTOP before the kill of the host. The repeats take turns."""

LONGEST_DELAY = 0.02
"""Seconds within which the host is killed after it has said the number at which that is to happen."""

PLAIN = ["hostile/loops.py", "hostile/loops_in_c.py", "hostile/loops_async.py", "well_behaved.py"]
"""Entries that die by their parent-death signal, whether they listen or not."""

RESISTING = ("hostile/resists.py", "clears its parent-death signal")

FAMILY = ("hostile/starts_others.py", {"lives": ["group", "session"], "end": "waits"})

DAEMONS = ("hostile/starts_others.py", {"lives": ["daemon", "traceless daemon"], "end": "waits"})

SEED = 12

HOST = """
import json, math, sys
import trio
from support.reliability import make_launcher, server_of
from spindle_trio import open_host

async def main(level, root, orders):
    launcher = make_launcher(level, spares=2)
    async with open_host(launcher, max_processes=100) as host:
        print(server_of(launcher), flush=True)
        async with host.open_worker("w", root=root, user_id="ada") as worker:
            for entry, payload in orders:
                handle = await worker.backend_processes.spawn(entry, payload=payload, heartbeat_timeout=math.inf)
                print(handle.pid, flush=True)
            await trio.sleep_forever()

trio.run(main, sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
"""


@pytest.mark.parametrize(
    "repeats",
    [
        pytest.param(QUICK_REPEATS, id="quick"),
        pytest.param(REPEATS, id="ordinary", marks=pytest.mark.slow),
        pytest.param(SOAK_REPEATS, id="soak", marks=pytest.mark.soak),
    ],
)
def test_nothing_is_left_two_seconds_after_a_host_was_killed_at_any_moment(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeats: int
) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    root = tmp_path / "entries"
    shutil.copytree(ENTRIES, root)
    (tmp_path / "host.py").write_text(HOST)
    for number in range(repeats):
        stopped = STOPPED[number % len(STOPPED)]
        orders = orders_for(level, stopped, dice)
        said_before = dice.randint(1, len(orders) + 1)
        delay = dice.uniform(0, LONGEST_DELAY)
        print(f"repeat {number}: {stopped} stopped, killed {delay * 1000:.1f} ms after number {said_before}")
        with none_survives(monkeypatch):
            kill_a_host([str(tmp_path / "host.py"), level, str(root)], orders, stopped, said_before, delay, dice)


def orders_for(level: str, stopped: str, dice: random.Random) -> list[tuple[str, object]]:
    """List what the host is to spawn: all that goes with it for sure, in a random order."""
    orders: list[tuple[str, object]] = [(entry, None) for entry in PLAIN * 2]
    if level in (NAMESPACE_LEVELS if "server" in stopped else STRONG_LEVELS):
        orders += [RESISTING, FAMILY, DAEMONS]
    dice.shuffle(orders)
    return orders


def kill_a_host(
    command: Sequence[str],
    orders: list[tuple[str, object]],
    stopped: str,
    said_before: int,
    delay: float,
    dice: random.Random,
) -> None:
    """Run a host, and kill it a moment after it has said so many numbers."""
    with subprocess.Popen(
        [sys.executable, *command, json.dumps(orders)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as host:
        assert host.stdout is not None
        numbers = [int(host.stdout.readline()) for _ in range(said_before)]
        pidfd = os.pidfd_open(host.pid)
        try:
            ended, _, _ = select.select([pidfd], [], [], delay)
        finally:
            os.close(pidfd)
        assert not ended, "the host was to live until it is killed"
        server, *children = numbers
        if "server" in stopped:
            os.kill(server, signal.SIGSTOP)
        if "child" in stopped and children:
            os.kill(dice.choice(children), signal.SIGSTOP)
        host.kill()
