"""Spares read the code of likely entries ahead. What a launch runs is what a fresh read would have found."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import random
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from spindle_trio import Containment, EntryError, ProcessHandle, StartupFailedError
from spindle_trio.child import _entry
from spindle_trio.child._entry import read_code
from spindle_trio.fork_server import _read_ahead
from spindle_trio.fork_server._read_ahead import MOST_SOURCE, read_ahead
from spindle_trio.launchers import DEFAULT_PRELOAD
from support.fork_server import Forked, fork_host, wait_until

SPARES = 2


@pytest.fixture(autouse=True)
def _surroundings(no_survivors: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have compiled files written, and refuse a test that leaves a server or a process."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)


def source(value: int, head: str = "def") -> str:
    """An entry that completes with a number, always of the same length."""
    return f"VALUE = {value:08d}\n{head} run(process):\n    process.ready()\n    return VALUE\n".replace(" 0", " 10")


def value_of(text: str) -> int:
    return int(text.partition("\n")[0].rpartition(" ")[2])


async def spawn(forked: Forked, entry: str = "entry.py") -> ProcessHandle:
    handle = await forked.worker.backend_processes.spawn(entry)
    await handle.wait_ended()
    return handle


def settle(path: Path) -> None:
    """Make a file look as if it had been left alone for a while, as those of users are."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10_000_000_000))


async def prepared(forked: Forked, *names: str) -> None:
    """Have the spares prepared for these entries, launched in this order."""
    await trio.sleep(0.11)  # a file that has just changed is not read ahead
    for name in names:
        await spawn(forked, name)
    await forked.wait_spares(SPARES)
    for name in names:  # those that were forked before are used up
        await spawn(forked, name)
    await forked.wait_spares(SPARES)


async def test_spares_are_prepared_for_the_entries_that_were_launched_last(tmp_path: Path) -> None:
    async with fork_host(tmp_path, spares=SPARES) as forked:
        for name in ("one.py", "two.py", "three.py"):
            (tmp_path / name).write_text(source(1))
            await spawn(forked, name)
        await forked.wait_spares(SPARES)
        await wait_until(lambda: not forked.launcher._pool._missing_spares())
        await spawn(forked, "three.py")
        await forked.wait_spares(SPARES)
        expected = {spare.expected for spare in forked.launcher._pool.spares}
        assert str(tmp_path / "three.py") in expected


async def test_a_spare_for_a_blocking_entry_runs_no_trio(tmp_path: Path) -> None:
    (tmp_path / "blocking.py").write_text(source(1))
    (tmp_path / "async.py").write_text(source(1, "async def"))
    async with fork_host(tmp_path, spares=SPARES, preload=DEFAULT_PRELOAD) as forked:
        await prepared(forked, "async.py", "blocking.py")
        # Those that run it have opened its epoll instance once they wait for their orders.
        wanted = {str(tmp_path / "blocking.py"): False, str(tmp_path / "async.py"): True}
        await wait_until(
            lambda: {spare.expected: has_loop(spare.pid) for spare in forked.launcher._pool.spares} == wanted
        )
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert {spare.expected: has_loop(spare.pid) for spare in forked.launcher._pool.spares} == wanted
        for name in ("async.py", "blocking.py", "blocking.py", "async.py", "async.py", "async.py"):
            assert (await spawn(forked, name)).state == "completed"


def has_loop(pid: int) -> bool:
    """Whether a process has an event loop."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if "eventpoll" in os.readlink(link):
                return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("preload", [(), DEFAULT_PRELOAD], ids=["lean", "with Trio"])
async def test_spares_live_although_the_folder_that_the_host_was_started_in_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preload: tuple[str, ...]
) -> None:
    (tmp_path / "entry.py").write_text(source(1))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    # At `pidns` a process begins at the top of its own mounts.
    async with fork_host(tmp_path, spares=SPARES, preload=preload, containment=Containment.KILLPG) as forked:
        (tmp_path / "gone").rmdir()
        assert (await spawn(forked)).result == value_of(source(1))  # later spares are forked without the folder
        for _ in range(2 * SPARES):
            await forked.wait_spares(SPARES)
            await trio.testing.wait_all_tasks_blocked(0.05)
            spares = {spare.pid for spare in forked.launcher._pool.spares}
            handle = await spawn(forked)
            assert handle.pid in spares
            assert handle.result == value_of(source(1))


@pytest.mark.parametrize("keeps_times", [False, True])
async def test_an_entry_that_was_edited_after_it_was_read_ahead_runs_as_it_is_now(
    tmp_path: Path, keeps_times: bool
) -> None:
    file = tmp_path / "entry.py"
    file.write_text(source(1))
    settle(file)
    async with fork_host(tmp_path, spares=SPARES) as forked:
        await prepared(forked, "entry.py")
        status = file.stat()
        file.write_text(source(2))
        if keeps_times:  # the time of its last change is another one all the same
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (await spawn(forked)).result == value_of(source(2))


async def test_an_entry_that_is_replaced_linked_elsewhere_or_removed_is_not_run_as_it_was(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path / "entry.py"
    outside = tmp_path_factory.mktemp("outside") / "entry.py"
    outside.write_text(source(3))
    file.write_text(source(1))
    settle(file)
    async with fork_host(tmp_path, spares=SPARES) as forked:
        await prepared(forked, "entry.py")
        (tmp_path / "new.py").write_text(source(2))
        (tmp_path / "new.py").replace(file)
        assert (await spawn(forked)).result == value_of(source(2))
        await prepared(forked, "entry.py")
        file.unlink()
        file.symlink_to(outside)
        with pytest.raises(EntryError, match="links out"):
            await spawn(forked)
        file.unlink()
        with pytest.raises(EntryError, match="no file"):
            await spawn(forked)
        (tmp_path / "inside.py").write_text(source(4))
        file.symlink_to("inside.py")
        assert (await spawn(forked)).result == value_of(source(4))


async def test_an_entry_whose_root_has_moved_behind_a_link_runs_all_the_same(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (root / "below" / "entry.py").write_text(source(1))
    async with fork_host(root, spares=SPARES) as forked:
        await prepared(forked, "below/entry.py")
        root.rename(tmp_path / "moved")
        root.symlink_to(tmp_path / "moved")
        assert (await spawn(forked, "below/entry.py")).result == value_of(source(1))
        (root / "below").rename(tmp_path / "outside")
        (root / "below").symlink_to(tmp_path / "outside")
        with pytest.raises(EntryError, match="links out"):
            await spawn(forked, "below/entry.py")


async def test_a_file_that_goes_after_its_spare_was_told_fails_that_launch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and the load: the order has left when the file goes."""
    file = tmp_path / "entry.py"
    file.write_text(source(1))
    settle(file)
    async with fork_host(tmp_path, spares=SPARES) as forked:
        await prepared(forked, "entry.py")
        resolve = forked.launcher.resolve

        def resolve_and_remove(entry: str, root: Path) -> object:
            resolved = resolve(entry, root)
            file.unlink()
            return resolved

        with monkeypatch.context() as patch:
            patch.setattr(forked.launcher, "resolve", resolve_and_remove)
            with pytest.raises(StartupFailedError, match="could not be loaded"):
                await spawn(forked)
        file.write_text(source(2))
        assert (await spawn(forked)).result == value_of(source(2))


async def test_a_root_whose_name_is_not_utf8_does_its_server_no_harm(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"\xff")
    root.mkdir()
    (root / "entry.py").write_text(source(1))
    async with fork_host(root, spares=SPARES) as forked:
        server = forked.server_pid
        await prepared(forked, "entry.py")
        assert str(root / "entry.py") in {spare.expected for spare in forked.launcher._pool.spares}
        assert (await spawn(forked)).result == value_of(source(1))
        assert forked.server_pid == server


async def test_only_a_short_source_is_compiled_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch of another entry may get this spare, and would have to wait."""
    monkeypatch.setattr("spindle_trio.fork_server._read_ahead.AHEAD", {})
    monkeypatch.setattr("spindle_trio.child._entry.AHEAD", {})
    short, long, compiled = tmp_path / "short.py", tmp_path / "long.py", tmp_path / "compiled.py"
    for file in (short, long, compiled):
        file.write_text(source(1) + "#" * (0 if file is short else MOST_SOURCE))
    await trio.sleep(0.11)
    py_compile.compile(str(compiled))
    later = compiled.stat().st_mtime + 10  # as if it had been compiled long after the last edit
    os.utime(importlib.util.cache_from_source(compiled), (later, later))
    read_ahead(map(str, (short, long, compiled)))
    assert set(_read_ahead.AHEAD) == {str(short), str(compiled)}
    assert read_code(str(long))[1].co_filename == str(long)


@pytest.mark.parametrize(("changed_at", "is_kept"), [(10.0, False), (9.2, True), (8.0, True), (9.95, False)])
def test_a_file_system_that_keeps_whole_seconds_gets_more_time(
    monkeypatch: pytest.MonkeyPatch, changed_at: float, is_kept: bool
) -> None:
    """It may have been edited in any moment of that second, and again after it was read."""
    status = SimpleNamespace(st_dev=1, st_ino=1, st_size=1, st_mtime_ns=1, st_ctime_ns=round(changed_at * 1e9))
    ahead: dict[str, object] = {}
    monkeypatch.setattr(_read_ahead, "AHEAD", ahead)
    monkeypatch.setattr(_read_ahead, "time_ns", lambda: 10_001_000_000)
    monkeypatch.setattr(_read_ahead, "read_code", lambda _path, **_: (status, None))
    read_ahead(["/entry.py"])
    assert bool(ahead) == is_kept


def test_a_compiled_file_is_not_believed_for_a_source_whose_time_was_set_back(tmp_path: Path) -> None:
    """It notes the time of its source in seconds, and the size: both are those of the newer source."""
    file = tmp_path / "entry.py"
    file.write_text(source(1))
    py_compile.compile(str(file))
    before = file.stat()
    file.write_text(source(2))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    names: dict[str, object] = {}
    exec(read_code(str(file))[1], names)
    assert names["VALUE"] == value_of(source(2))


def test_a_process_that_stands_still_leaves_no_compiled_file_of_an_older_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is edited in the second of its last change, and what was read before is compiled much later."""
    file = tmp_path / "entry.py"
    file.write_text(source(1))
    read, compiled = _entry._read, Path(importlib.util.cache_from_source(file))

    def read_and_stand_still(fd: int) -> bytes:
        data = read(fd)
        before = file.stat()
        file.write_text(source(2))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        return data

    with monkeypatch.context() as patch:
        patch.setattr(_entry, "_read", read_and_stand_still)
        read_code(str(file))
    if compiled.exists():
        os.utime(compiled, (file.stat().st_ctime + 3,) * 2)
    found: dict[str, object] = {}
    exec(read_code(str(file))[1], found)
    assert found["VALUE"] == value_of(source(2))


async def test_what_the_compiler_warns_of_is_said_by_the_process_that_runs_the_entry(tmp_path: Path) -> None:
    (tmp_path / "warns.py").write_text('TEXT = "\\d"\n' + source(1))
    (tmp_path / "entry.py").write_text(source(1))
    async with fork_host(tmp_path, spares=SPARES) as forked:
        await prepared(forked, "warns.py", "entry.py")
        quiet = await spawn(forked, "entry.py")
        assert "invalid escape" not in forked_output(quiet)


def forked_output(handle: ProcessHandle) -> str:
    launched = handle._process.record.launched  # type: ignore[attr-defined]
    return str(launched.stderr_tail())


async def test_a_spare_that_has_just_died_costs_its_launch_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies between the look at it and the order: the pool's look is made blind here."""
    monkeypatch.setattr("spindle_trio.launchers._local._process_pool.has_ended", lambda _pidfd: False)
    (tmp_path / "entry.py").write_text(source(1))
    async with fork_host(tmp_path, spares=SPARES) as forked:
        await forked.wait_spares(SPARES)
        for spare in forked.launcher._pool.spares:
            os.kill(spare.pid, 9)
        await wait_until(lambda: all(is_zombie(spare.pid) for spare in forked.launcher._pool.spares))
        assert (await spawn(forked)).result == value_of(source(1))


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    "edits",
    [150, pytest.param(1_500, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.soak)],
)
async def test_random_edits_against_spawns_make_no_stale_run(tmp_path: Path, edits: int) -> None:
    """In place, by a new file, by way of a removal, and with times set back; now and then nothing changes at all."""
    chance = random.Random(edits)
    names = ["one.py", "two.py", "three.py"]
    values = dict.fromkeys(names, 0)
    aside = tmp_path / "aside"
    for name in names:
        (tmp_path / name).write_text(source(0))

    def edit(name: str, number: int) -> None:
        file, text = tmp_path / name, source(number)
        before = file.stat()
        kind = chance.randrange(5)
        if kind == 0:
            return
        if kind in (1, 2):
            file.write_text(text)
        elif kind == 3:
            aside.write_text(text)
            aside.replace(file)
        else:
            file.unlink()
            file.write_text(text)
        if chance.random() < 0.3:
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        values[name] = number

    async with fork_host(tmp_path, spares=SPARES, seconds=60 + edits / 20) as forked:
        for number in range(1, edits + 1):
            name = chance.choice(names)
            edit(name, number)
            if chance.random() < 0.05:
                await trio.sleep(0.12)  # so that what is there is read ahead
            handle = await spawn(forked, name)
            assert handle.result == value_of(source(values[name])), (number, name)
