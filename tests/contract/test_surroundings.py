"""Surroundings of one process: variables, a folder and arguments of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from spindle_trio import DefaultLauncher, EntryError, PythonLauncher, SpawnOptions, open_host
from support.contract import WAITS

TELLS = """
import os, sys
def run(process):
    process.ready()
    return {"argv": sys.argv, "folder": os.getcwd(), "one": os.environ.get("ONE"), "path": os.environ.get("PATH")}
"""
TELLS_ASYNC = TELLS.replace("def run", "async def run")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [DefaultLauncher, PythonLauncher], ids=["forked", "exec"])
@pytest.mark.parametrize("source", [TELLS, TELLS_ASYNC], ids=["blocking", "async"])
async def test_a_process_runs_in_the_surroundings_that_its_spawn_names(
    tmp_path: Path, launcher: type[DefaultLauncher | PythonLauncher], source: str
) -> None:
    (tmp_path / "tells.py").write_text(source)
    (tmp_path / "data" / "ünten").mkdir(parents=True)
    async with (
        open_host(launcher(spares=1), environment={"PATH": "/bin", "ONE": "host's"}) as host,
        host.open_worker("tests", root=tmp_path, user_id="ada") as worker,
    ):
        told = []
        for options in (
            {"environment": {"ONE": "1"}, "folder": "data/ünten", "arguments": ["--fast", "", "a b"]},
            {"folder": Path("data")},
            {},
        ):
            handle = await worker.backend_processes.spawn("tells.py", **options)
            await handle.wait_ended()
            told.append(handle.result)
    root = str(tmp_path.resolve())
    assert told == [
        {"argv": ["tells.py", "--fast", "", "a b"], "folder": f"{root}/data/ünten", "one": "1", "path": "/bin"},
        {"argv": ["tells.py"], "folder": f"{root}/data", "one": "host's", "path": "/bin"},
        {"argv": ["tells.py"], "folder": root, "one": "host's", "path": "/bin"},
    ]


async def test_a_folder_is_really_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "entry.py").write_text(WAITS)
    (root / "out").symlink_to(tmp_path)
    async with open_host() as host, host.open_worker("tests", root=root, user_id="ada") as worker:
        for folder, words in {
            "/tmp": "is an absolute path",  # refused
            "../root": "climbs through",
            "": "is blank",
            "out": "links out of the root",
            "gone": "cannot be used: No such file",
            "entry.py": "is not a folder",
            "a\0b": "contains characters",
        }.items():
            with pytest.raises(EntryError, match=words):
                await worker.backend_processes.spawn("entry.py", folder=folder)
        assert host.statistics().processes == 0


async def test_a_folder_that_is_swapped_for_a_link_after_its_check_is_not_entered(tmp_path: Path) -> None:
    """The old process of the key ends between the check and the launch: time enough to swap it."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "data").mkdir(parents=True)
    elsewhere.mkdir()
    (root / "entry.py").write_text(WAITS.replace("async def", "import trio\nasync def"))
    async with open_host() as host, host.open_worker("tests", root=root, user_id="ada") as worker:
        processes = worker.backend_processes
        await processes.spawn("entry.py", key="k")

        def swap(event: object) -> None:
            if (root / "data").is_dir() and not (root / "data").is_symlink():
                (root / "data").rmdir()
                (root / "data").symlink_to(elsewhere)

        processes.on_lifecycle(swap)
        with pytest.raises(Exception, match="was replaced by a link to elsewhere after it was checked"):
            await processes.spawn("entry.py", key="k", folder="data", replace_existing=True)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"environment": {"A=B": "1"}}, ValueError, "no environment can hold the variable 'A=B'"),
        ({"environment": {"A": "\0"}}, ValueError, "no environment can hold the variable 'A'"),
        ({"environment": {"A": 1}}, TypeError, "environment must map str to str, not 'A' to 1"),
        ({"environment": ["A=1"]}, TypeError, "environment must be a mapping"),
        ({"arguments": "--fast"}, TypeError, r"arguments=\['--fast'\]"),
        ({"arguments": [1]}, TypeError, "arguments must be a sequence of str; 1 is not a str"),
        ({"arguments": ["\0"]}, ValueError, "contains a NUL, which no argument may"),
        ({"environment": {"A": "\ud800"}}, ValueError, "variable 'A': it contains a lone surrogate"),
        ({"arguments": ["\ud800"]}, ValueError, "contains a lone surrogate, which no argument may"),
        ({"folder": 7}, TypeError, "folder must be a str or a path"),
    ],
)
def test_surroundings_that_no_process_can_have_are_refused(
    options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        SpawnOptions("entry.py", **options)


def test_what_a_spawn_was_given_cannot_be_changed_afterwards() -> None:
    environment, arguments = {"A": "1"}, ["--fast"]
    options = SpawnOptions("entry.py", environment=environment, arguments=arguments)
    environment["A"], arguments[0] = "2", "--slow"
    assert (options.environment, options.arguments) == ({"A": "1"}, ("--fast",))


async def test_in_memory_they_are_checked_and_no_more(virtual_world, autojump_clock: MockClock) -> None:
    entry = virtual_world.entry(WAITS)
    async with virtual_world.worker() as worker:
        with pytest.raises(EntryError, match="climbs"):
            await worker.backend_processes.spawn(entry, folder="../data")
        async with worker.backend_processes.open(
            entry, folder="data", arguments=["--fast"], environment={"A": "1"}
        ) as handle:
            order = handle._process.record.launched.order
            assert (order.folder, order.arguments) == (virtual_world.root / "data", ("--fast",))
            assert order.environment["A"] == "1"


@pytest.mark.parametrize(("allow", "error"), [("folder", TypeError), (["folders"], ValueError)])
def test_only_what_there_is_can_be_allowed(allow: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="allow"):
        open_host(allow=allow)
