"""Ctrl-C in a program that keeps a service up, in each of its states: nothing is left, and the error is bare."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from support.leftovers import none_survives

GRACE_SECONDS = 20.0

DEAF = """
import time

def run(process):
    process.on_stop(print)
    process.ready()
    time.sleep(3600)
"""

CRASHES = """
def run(process):
    process.ready()
    process.fail("it crashes")
"""

PROGRAM = """
import signal, sys
import trio
import spindle_trio as spindle

async def main(root, entry):
    policy = spindle.RestartPolicy(delay=30)
    async with (
        spindle.open_host(grace_period=20) as host,
        host.open_worker("w", root=root, user_id="ada") as worker,
        spindle.open_service(worker, entry, key="a", restart=policy) as service,
    ):
        while service.state != ("waiting" if entry == "crashes.py" else "running"):
            await trio.sleep(0.01)
        print("up", flush=True)
        await trio.sleep_forever()

signal.signal(signal.SIGINT, signal.default_int_handler)
trio.run(main, *sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("entry", "signals"), [pytest.param("deaf.py", 2, id="running"), pytest.param("crashes.py", 1, id="waiting")]
)
def test_ctrl_c_leaves_nothing_of_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, signals: int
) -> None:
    (tmp_path / "deaf.py").write_text(DEAF)
    (tmp_path / "crashes.py").write_text(CRASHES)
    (tmp_path / "program.py").write_text(PROGRAM)
    with (
        none_survives(monkeypatch),
        subprocess.Popen(
            [sys.executable, str(tmp_path / "program.py"), str(tmp_path), entry],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as program,
    ):
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        began_at = monotonic()
        program.send_signal(signal.SIGINT)
        if signals == 2:
            with pytest.raises(subprocess.TimeoutExpired):
                program.wait(0.5)  # it waits for the process that does not listen
            program.send_signal(signal.SIGINT)
        program.wait(GRACE_SECONDS / 2 - (monotonic() - began_at))
        assert program.stderr is not None
        said = program.stderr.read().splitlines()
        assert said[-1] == "KeyboardInterrupt"
        assert not any("ExceptionGroup" in line for line in said)
