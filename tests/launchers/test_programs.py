"""How a launcher finds the program of a command, and what it says of one that cannot be run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from spindle_trio import (
    Command,
    DefaultLauncher,
    EntryError,
    ForkServerLauncher,
    Limits,
    NodeLauncher,
    PythonLauncher,
    open_host,
)
from spindle_trio.abc import LaunchOrder
from spindle_trio.launchers._programs import SHIM, behind_shim, resolve_program

PATH = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """Make a program in the root."""
    tool = tmp_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    return tool


def test_a_name_is_looked_up_on_the_path_of_the_process(tool: Path) -> None:
    found = resolve_program(Command(["tool", "-x"]), tool.parent.parent, {"PATH": f"/nowhere::bin:{tool.parent}"})
    assert found.program == tool
    assert found.entry == "tool -x"
    assert found.path == SHIM


def test_relative_folders_on_the_path_are_left_out(tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tool.parent)
    with pytest.raises(EntryError, match=r"is in no folder of the PATH '\.::bin'"):
        resolve_program(Command(["tool"]), tool.parent.parent, {"PATH": ".::bin"})


@pytest.mark.parametrize("name", ["bin/tool", "./bin/tool", "{root}/bin/tool"])
def test_a_path_counts_from_the_root(tool: Path, name: str) -> None:
    root = tool.parent.parent
    found = resolve_program(Command([name.format(root=root)]), root, {})
    assert found.program is not None
    assert os.path.samefile(found.program, tool)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "no-such-program",
            r"'no-such-program' of a command is in no folder of the PATH .* install it, name it by a path",
        ),
        ("bin/none", r"'bin/none' of a command does not exist, from the root .* \(chmod \+x\)"),
        ("/none", "'/none' of a command does not exist; name a file"),
        ("bin/", "'bin/' of a command is a folder"),
        ("bin/plain", "'bin/plain' of a command may not be executed by this user"),
        ("bin/tool/x", "does not exist"),
        ("bin/loop", "cannot be looked at"),
        ("/dev/null", "is no regular file"),
    ],
)
def test_a_program_that_cannot_run_is_refused_with_the_reason(tool: Path, name: str, words: str) -> None:
    (tool.parent / "plain").write_text("")
    (tool.parent / "loop").symlink_to("loop")
    with pytest.raises(EntryError, match=words):
        resolve_program(Command([name]), tool.parent.parent, PATH)


def test_a_file_on_the_path_that_may_not_be_executed_is_named(tool: Path) -> None:
    (tool.parent / "plain").write_text("")
    with pytest.raises(EntryError, match=r"may not be executed by this user: '/.*/bin/plain'"):
        resolve_program(Command(["plain"]), tool.parent.parent, {"PATH": str(tool.parent)})


def test_the_shim_is_told_what_to_run(tool: Path) -> None:
    root = tool.parent.parent
    command = Command(["bin/tool", "\udcff"], environment={"A": "1"}, folder="bin", lane="lines")
    entry = resolve_program(command, root, {})
    order = LaunchOrder("p1", entry, root, {}, Limits(), folder=root / "bin", command=command)
    (argument,) = behind_shim(order, command).arguments
    assert argument.isascii()
    assert json.loads(argument) == {
        "argv": ["bin/tool", "\udcff"],
        "environment": {"A": "1"},
        "folder": None,
        "ready": {"kind": "started"},
        "lane": "lines",
        "stopSignal": 15,
        "program": str(tool),
    }


@pytest.mark.parametrize("launcher", [DefaultLauncher(), ForkServerLauncher(), PythonLauncher()])
def test_every_launcher_of_python_runs_commands(launcher: DefaultLauncher, tool: Path) -> None:
    assert launcher.resolve_command(Command([str(tool)]), tool.parent, {}).program == tool


def test_a_launcher_of_javascript_alone_says_who_runs_commands() -> None:
    with pytest.raises(EntryError, match="NodeLauncher runs no commands, and 'ls' is one: use DefaultLauncher"):
        NodeLauncher("node").resolve_command(Command(["ls"]), Path("/"), {})


async def test_an_allowed_path_holds_for_the_name_that_leads_to_it(tool: Path) -> None:
    """And the name of another program tells nobody whether it is there."""
    root = tool.parent.parent
    (tool.parent / "other").symlink_to(tool)
    async with (
        open_host(DefaultLauncher(spares=0), environment={"PATH": str(tool.parent)}, commands={str(tool)}) as host,
        host.open_worker("tests", root=root, user_id="ada") as worker,
    ):
        processes = worker.backend_processes
        for argv in (["tool"], ["bin/tool"], [str(tool)]):
            info = await (await processes.spawn(Command(argv))).wait_ended()
            assert info.state == "completed"
        for argv in (["other"], ["none"], ["./bin/../bin/tool"], ["/bin/sh"]):
            with pytest.raises(EntryError, match=f"does not allow the command '{argv[0]}'; it allows: '/"):
                await processes.spawn(Command(argv))
