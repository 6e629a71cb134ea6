"""Ctrl-C, twice, while a hundred processes are in all states: nothing is left (reliability, row 31)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from support.leftovers import none_survives
from support.reliability import STRONG_LEVELS

GRACE_SECONDS = 2.0

ENTRIES = {
    "never_ready.py": "import time\ndef run(process):\n    time.sleep(3600)",
    "waits.py": "def run(process):\n    process.ready()\n    process.receive()",
    "waits_async.py": "import trio\nasync def run(process):\n    process.ready()\n    await trio.sleep_forever()",
    "deaf.py": "import time\ndef run(process):\n    process.on_stop(print)\n    process.ready()\n    time.sleep(3600)",
    "lingers.py": "import atexit, time\ndef run(process):\n    process.ready()\n    atexit.register(time.sleep, 3600)",
    "talks.py": "def run(process):\n    process.ready()\n    while True:\n        process.send('x' * 1000)",
    "sleeps.py": "import os, signal\ndef run(process):\n    process.ready()\n    os.kill(os.getpid(), signal.SIGSTOP)",
    "parent.py": (
        "import subprocess, sys\ndef run(process):\n    process.ready()\n"
        "    subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(3600)'], start_new_session=True)\n"
        "    process.receive()"
    ),
}
"""Starting, running, stopping, ending; and `stop` is asked of some of the deaf before."""

HOST = """
import json, signal, sys
import trio
from support.reliability import make_launcher
from spindle_trio import open_host

async def main(level, root, grace_period, entries):
    # Two of them, as a shell would send them; the second comes while the host is being left.
    async with open_host(make_launcher(level, spares=2), max_processes=200, grace_period=grace_period) as host:
        async with host.open_worker("w", root=root, user_id="ada") as worker, trio.open_nursery() as nursery:
            spawned = 0
            async def spawn(entry, number):
                nonlocal spawned
                try:
                    handle = await worker.backend_processes.spawn(entry, startup_timeout=60, heartbeat_timeout=60)
                    spawned += 1
                    if entry == "deaf.py" and number % 3 == 0:
                        nursery.start_soon(handle.stop)
                except Exception:
                    pass  # stopped while it was starting
            for number in range(100):
                nursery.start_soon(spawn, entries[number % len(entries)], number)
            while spawned < 100 - 100 // len(entries) - 1:
                await trio.sleep(0.01)
            print("up", flush=True)
            await trio.sleep_forever()

signal.signal(signal.SIGINT, signal.default_int_handler)
trio.run(main, sys.argv[1], sys.argv[2], float(sys.argv[3]), json.loads(sys.argv[4]))
"""


@pytest.mark.quick(1)
def test_two_ctrl_c_leave_nothing_of_a_hundred_processes_in_all_states(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "entries"
    root.mkdir()
    for name, source in ENTRIES.items():
        (root / name).write_text(source)
    names = [name for name in ENTRIES if name != "parent.py" or level in STRONG_LEVELS]
    (tmp_path / "host.py").write_text(HOST)
    with (
        none_survives(monkeypatch),
        subprocess.Popen(
            [sys.executable, str(tmp_path / "host.py"), level, str(root), str(GRACE_SECONDS), json.dumps(names)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as host,
    ):
        assert host.stdout is not None
        assert host.stdout.readline() == "up\n"
        began_at = monotonic()
        host.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            host.wait(GRACE_SECONDS / 4)  # it waits for those that do not listen
        host.send_signal(signal.SIGINT)
        host.wait(GRACE_SECONDS + 2 - (monotonic() - began_at))
        assert host.stderr is not None
        said = host.stderr.read()
        assert "KeyboardInterrupt" in said
        assert "ExceptionGroup" not in said.splitlines()[-1]
