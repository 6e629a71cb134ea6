"""The checked file is the loaded one, even if somebody swaps a folder and a link in between."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from spindle_trio import DefaultLauncher, EntryError, PythonLauncher, SpawnError, StartupFailedError, Worker, open_host
from spindle_trio._model import ResolvedEntry
from spindle_trio.abc import Launcher
from spindle_trio.launchers import ForkServerLauncher

INSIDE = "def run(process):\n    process.ready()\n    return 'inside'"


def write_entries(root: Path, outside: Path) -> None:
    """Write an entry into a folder of the root, and one of the same name outside, which leaves a mark when it runs."""
    for folder in (root / "code", outside):
        folder.mkdir(parents=True)
    (root / "code" / "entry.py").write_text(INSIDE)
    mark = f"open({str(outside / 'has run')!r}, 'w').close()\n"
    (outside / "entry.py").write_text(mark + INSIDE.replace("inside", "outside"))


@contextmanager
def swapping(root: Path, outside: Path) -> Iterator[None]:
    """Have a thread swap the folder and a link that leads out of the root, again and again."""
    code, away, link = root / "code", root / "away", root / "link"
    link.symlink_to(outside)
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            for old, new in ((code, away), (link, code), (code, link), (away, code)):
                os.rename(old, new)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


async def spawn_many(worker: Worker, number: int, at_once: int) -> list[object]:
    """Spawn the entry so often, and return the results of those that came to be ready."""
    results: list[object] = []
    left = iter(range(number))

    async def spawn_on() -> None:
        for _ in left:
            try:
                handle = await worker.backend_processes.spawn("code/entry.py")
            except (EntryError, SpawnError):
                continue
            await handle.wait_ended()
            results.append(handle.result)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(spawn_on)
    return results


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        pytest.param(ForkServerLauncher(spares=3), 300, id="forked"),
        pytest.param(PythonLauncher(spares=2), 40, id="python"),
    ],
)
async def test_nothing_outside_of_the_root_runs_while_a_folder_and_a_link_are_swapped(
    tmp_path: Path, launcher: Launcher, number: int
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    write_entries(root, outside)
    async with (
        open_host(launcher) as host,
        host.open_worker("w", root=root, user_id="ada") as worker,
    ):
        with swapping(root, outside):
            results = await spawn_many(worker, number, at_once=4)
        assert set(results) <= {"inside"}
        assert not (outside / "has run").exists()
        assert await spawn_many(worker, 1, at_once=1) == ["inside"]


class SwapsOnce(DefaultLauncher):
    """Replaces a folder by a link that leads out of the root, once the entry has been checked."""

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        resolved = super().resolve(entry, root)
        (root / "code").rename(root / "away")
        (root / "code").symlink_to(root.parent / "outside")
        return resolved


@pytest.mark.parametrize("entry", ["entry.py", "entry.mjs"])
async def test_a_file_that_is_behind_a_link_when_it_is_loaded_is_not_run(tmp_path: Path, entry: str) -> None:
    if entry == "entry.mjs" and shutil.which("node") is None:
        pytest.skip("there is no node")
    write_entries(tmp_path / "root", tmp_path / "outside")
    for folder in (tmp_path / "root" / "code", tmp_path / "outside"):
        (folder / "entry.mjs").write_text("export default (process) => process.ready();")
    async with (
        open_host(SwapsOnce()) as host,
        host.open_worker("w", root=tmp_path / "root", user_id="ada") as worker,
    ):
        with pytest.raises(StartupFailedError, match="was replaced by a link to elsewhere after it was checked"):
            await worker.backend_processes.spawn(f"code/{entry}")
    assert not (tmp_path / "outside" / "has run").exists()


class PutsAPipe(DefaultLauncher):
    """Replaces an entry by a pipe, once it has been checked."""

    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        resolved = super().resolve(entry, root)
        (root / entry).unlink()
        os.mkfifo(root / entry)
        return resolved


async def test_a_file_that_is_a_pipe_when_it_is_loaded_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_text(INSIDE)
    async with open_host(PutsAPipe()) as host, host.open_worker("w", root=tmp_path, user_id="ada") as worker:
        with pytest.raises(StartupFailedError, match="was replaced by what is no regular file after it was checked"):
            await worker.backend_processes.spawn("entry.py", startup_timeout=5)
