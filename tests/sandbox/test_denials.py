"""The access that a sandbox has denied, as far as a process has named it: in its post-mortem."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import spindle_trio
from spindle_trio import READ_ONLY, Command, PostMortem, Worker
from spindle_trio.abc import SandboxRules
from spindle_trio.launchers._local._denials import find_denial
from support.javascript import needs_node

RULES = SandboxRules(read=["/base", "/usr"], write=["/tmp/own"])
NOTHING = "its sandbox allows nothing there"
READING = "its sandbox allows only reading there"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("PermissionError: [Errno 13] Permission denied: '/home/a/.ssh/id'", f"'/home/a/.ssh/id': {NOTHING}"),
        ("PermissionError: [Errno 13] Permission denied: '/base/x'", f"'/base/x': {READING}"),
        ("PermissionError: [Errno 13] Permission denied: 'x'", f"'x': {READING}"),
        ("PermissionError: [Errno 13] Permission denied: '../x'", f"'../x': {NOTHING}"),
        ("PermissionError: [Errno 13] Permission denied: '/tmp/own/x'", None),
        ("OSError: [Errno 18] Invalid cross-device link: '/tmp/own/x' -> '/home/x'", f"'/home/x': {NOTHING}"),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/home/x'", None),
        ("Error: EACCES: permission denied, open '/home/x'", f"'/home/x': {NOTHING}"),
        ("Error: EACCES: permission denied, link '/tmp/own/x' -> '/home/y'", f"'/home/y': {NOTHING}"),
        ("cat: /home/x: Permission denied", f"'/home/x': {NOTHING}"),
        ("sh: 1: cannot create /home/x: Permission denied", f"'/home/x': {NOTHING}"),
        ("ls: cannot open directory '/home/x': Permission denied", f"'/home/x': {NOTHING}"),
        ("cat: /home/x: Permission denied\ncat: /home/y: Permission denied", f"'/home/y': {NOTHING}"),
        ("Error: connect EPERM 127.0.0.1:80 - Local (undefined:undefined)", "a socket: its sandbox has network='none'"),
        ("all is well", None),
        ("", None),
    ],
)
def test_a_denied_access_is_found_in_what_was_said(said: str, found: str | None) -> None:
    assert find_denial(said, RULES, "/base") == found


@pytest.mark.parametrize("text", ["[Errno 13] " * 50_000, ": /" * 200_000, "'" * 500_000, "socket.socket\n" * 30_000])
def test_a_long_text_is_searched_in_no_time(text: str) -> None:
    began = time.process_time()
    assert find_denial(text, RULES, "/base") is None
    assert time.process_time() - began < 1


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    (tmp_path / "base").mkdir()
    (tmp_path / "secret").write_text("secret")
    with trio.fail_after(30):
        async with (
            spindle_trio.open_host(sandbox=READ_ONLY) as host,
            host.open_worker("w", root=tmp_path / "base", user_id="u") as worker,
        ):
            yield worker


async def post_mortem_of(worker: Worker, entry: str | Command) -> PostMortem:
    handle = await worker.backend_processes.spawn(entry)
    await handle.wait_ended()
    assert handle.post_mortem is not None
    return handle.post_mortem


async def test_the_post_mortem_of_a_python_entry_names_it(worker: Worker, tmp_path: Path) -> None:
    secret = str(tmp_path / "secret")
    (tmp_path / "base/reads.py").write_text(f"def run(process):\n    process.ready()\n    open({secret!r})\n")
    post_mortem = await post_mortem_of(worker, "reads.py")
    assert post_mortem.denied == f"'{tmp_path}/secret': {NOTHING}"
    assert f"denied: '{tmp_path}/secret': {NOTHING}" in str(post_mortem)


async def test_the_post_mortem_names_a_socket(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "base/connects.py").write_text(
        "import socket\ndef run(process):\n    process.ready()\n    socket.create_connection(('127.0.0.1', 1))\n"
    )
    assert (await post_mortem_of(worker, "connects.py")).denied == "a socket: its sandbox has network='none'"


async def test_the_post_mortem_of_a_command_names_it(worker: Worker, tmp_path: Path) -> None:
    post_mortem = await post_mortem_of(worker, Command(["sh", "-c", f"cat {tmp_path}/secret"]))
    assert post_mortem.denied == f"'{tmp_path}/secret': {NOTHING}"


@needs_node
async def test_the_post_mortem_of_a_javascript_entry_names_it(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "base/reads.mjs").write_text(
        "import fs from 'node:fs';\n"
        f"export default (process) => (process.ready(), fs.readFileSync('{tmp_path}/secret'));\n"
    )
    assert (await post_mortem_of(worker, "reads.mjs")).denied == f"'{tmp_path}/secret': {NOTHING}"


async def test_nothing_is_named_where_nothing_was_denied(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "base/fails.py").write_text("def run(process):\n    process.ready()\n    raise ValueError\n")
    assert (await post_mortem_of(worker, "fails.py")).denied is None
