"""A process in a list of processes: its entry and its id, whatever runs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from spindle_trio import DefaultLauncher, ForkServerLauncher, NodeLauncher, PythonLauncher, open_host
from spindle_trio._linux import _command_line
from spindle_trio.abc import Launcher

PYTHON = """
import os
def run(process):
    process.ready()
    process.receive()
    return dict(os.environ)
"""
JAVASCRIPT = "export default (process) => { process.onMessage(() => process.complete({})); process.ready(); };\n"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on the PATH")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "entry"),
    [
        pytest.param(lambda: ForkServerLauncher(preload=(), spares=0), "work/entry.py", id="forked"),
        pytest.param(lambda: ForkServerLauncher(spares=1), "work/entry.py", id="a spare"),
        pytest.param(PythonLauncher, "work/entry.py", id="exec"),
        pytest.param(lambda: DefaultLauncher(preload=()), "work/entry.mjs", id="javascript", marks=needs_node),
        pytest.param(NodeLauncher, "work/entry.mjs", id="node", marks=needs_node),
        pytest.param(lambda: ForkServerLauncher(preload=(), spares=0), f"{'long/' * 60}entry.py", id="a long one"),
    ],
)
async def test_a_list_of_processes_shows_the_entry_and_its_id(
    tmp_path: Path, make: Callable[[], Launcher], entry: str
) -> None:
    path = tmp_path / entry
    path.parent.mkdir(parents=True)
    path.write_text(PYTHON if entry.endswith(".py") else JAVASCRIPT)
    with trio.fail_after(30):
        async with (
            open_host(make(), environment={"OF_THE_HOST": "kept"}) as host,
            host.open_worker("tests", root=tmp_path, user_id="ada") as worker,
        ):
            await trio.testing.wait_all_tasks_blocked(0.05)  # for a spare
            handle = await worker.backend_processes.spawn(entry)
            shown = [(name, text) for name, text in list_of_processes() if handle.process_id in text]
            await handle.send("end")
            await handle.wait_ended()
            ((name, text),) = shown
            assert f"{entry[-40:]} {handle.process_id}" in text
            if entry.endswith(".py"):
                assert name == "entry.py"
                assert handle.result["OF_THE_HOST"] == "kept"


def list_of_processes() -> list[tuple[str, str]]:
    """Name and command line of each process, as `ps` shows them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(((folder / "comm").read_text().strip(), command.strip()))
    return found


def test_a_place_that_is_too_short_shows_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    place = bytearray(b"python\0a\0")
    monkeypatch.setattr(_command_line, "_found", [memoryview(place)])
    _command_line.show_command_line("entry.py", "p-1")
    assert place == b"y.py p-1\0"
    _command_line.show_command_line("e", "p")
    assert place == b"e p\0\0\0\0\0\0"
    _command_line.show_command_line("entry.py", "an-id-that-is-too-long")
    assert place == b" an-id-t\0"


def test_a_program_without_such_a_place_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(_command_line, "_found", [])
    monkeypatch.setattr(os, "open", refuse)
    _command_line.find_command_line()
    _command_line.show_command_line("entry.py", "p-1")
    assert _command_line._found == []
