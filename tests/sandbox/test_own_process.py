"""What `apply_sandbox` does to the process that calls it, and what a process in a sandbox holds from before."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import spindle_trio
from spindle_trio import DefaultLauncher, PythonLauncher, Sandbox

RULES = '{"read": ["/usr"], "write": ["/dev/null"], "network": "none", "subprocesses": True}'

QUEUES = f"""
import os
from spindle_trio.child._confine import apply_sandbox
from spindle_trio._linux._syscalls import system_call
opens, unlinks = {{"x86_64": (240, 241), "aarch64": (180, 181)}}[os.uname().machine]
name = b"spindle-%d\\0" % os.getpid()
os.close(system_call(opens, name, os.O_CREAT | os.O_RDWR, 0o600, 0))
if os.fork() == 0:
    apply_sandbox({RULES})
    for number, *arguments in ((opens, os.O_RDWR, 0o600, 0), (unlinks,)):
        try:
            system_call(number, name, *arguments)
        except OSError as error:
            print(error.errno)
else:
    os.wait()
    system_call(unlinks, name)
"""

INHERITS = """
import os

def run(process):
    listed = os.open("/proc/self/fd", os.O_RDONLY)
    held = sorted(int(name) for name in os.listdir(listed) if int(name) != listed)
    kinds = {}
    for fd in held:
        try:
            kinds[fd] = os.readlink(f"/proc/self/fd/{fd}").partition(":[")[0]
        except OSError:
            pass  # the one of the listing
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    process.ready()
    process.send({"kinds": list(kinds.values()), "privileges": status["NoNewPrivs"].strip()})
    process.receive()
    process.complete(os.system("exit 3") >> 8)
"""


IMPORTS = """
import os
import helper

def run(process):
    process.ready()
    refused = []
    names = os.listdir("kept")
    for file, mode in (("secret", "r"), ("kept/file", "r"), ("new", "w")):
        try:
            open(file, mode)
        except PermissionError:
            refused.append(True)
    process.complete([helper.WORD, sorted(os.listdir()), names, refused])
"""


def _run_alone(program: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(spindle_trio.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_message_queue_of_others_is_out_of_reach() -> None:
    assert _run_alone(QUEUES).split() == ["1", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [DefaultLauncher(), DefaultLauncher(spares=0), PythonLauncher()], ids=["spare", "forked", "fresh"]
)
async def test_a_process_in_a_sandbox_holds_its_lanes_and_page_only(launcher: object, tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_text(INHERITS)
    assert isinstance(launcher, DefaultLauncher | PythonLauncher)
    with trio.fail_after(30):
        async with (
            spindle_trio.open_host(launcher) as host,
            host.open_worker("w", user_id="u", root=tmp_path) as worker,
        ):
            handle = await worker.backend_processes.spawn("entry.py", sandbox=Sandbox(), heartbeat_timeout=math.inf)
            async with handle.messages() as messages:
                told = await messages.receive()
            assert isinstance(told, dict)
            assert told["privileges"] == "1"
            kinds = told["kinds"]
            assert isinstance(kinds, list)
            # Stdin, stdout, stderr, the page; three lanes, which may have duplicates; the event loop of a spare.
            unexpected = {str(kind) for kind in kinds} - {"socket", "pipe", "/dev/null", "anon_inode"}
            assert all(kind.startswith("/memfd:spindle_trio") for kind in unexpected), unexpected
            assert len([kind for kind in kinds if str(kind) == "pipe"]) == 2
            await handle.send("go on")
            await handle.wait_ended()
            assert handle.result == 3


async def test_what_lies_beside_a_denied_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_text(IMPORTS)
    (tmp_path / "helper.py").write_text("WORD = 'helped'\n")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("kept")
    denials = ("@root/secret", "@root/kept/file")
    with trio.fail_after(30):
        async with (
            spindle_trio.open_host(DefaultLauncher(spares=0)) as host,
            host.open_worker("w", user_id="u", root=tmp_path) as worker,
        ):
            box = Sandbox(read=("@runtime",), write=("@root",), deny=denials)
            handle = await worker.backend_processes.spawn("entry.py", sandbox=box)
            await handle.wait_ended()
    assert handle.result == ["helped", ["entry.py", "helper.py", "kept", "secret"], ["file"], [True, True, True]]
