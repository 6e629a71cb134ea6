"""Which entries are refused before anything starts, and what becomes of files that cannot be run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

import spindle_trio as spindle

WAITS = """
async def run(process):
    process.ready()
    await trio.sleep_forever()
"""

BAD_NAMES = [
    "",
    " \t\n",
    "/entry.py",
    "\\entry.py",
    "C:\\entry.py",
    "c:/entry.py",
    "c:entry.py",
    "../entry.py",
    "..\\entry.py",
    "dist/../entry.py",
    "dist\\..\\entry.py",
    "dist/../../entry.py",
    "./../entry.py",
    "..",
    ".",
    "./",
    "entry.py\0",
    "entry\ud800.py",
    "missing.py",
    "dist/missing.py",
    "entry.py/entry.py",
    "entry.PY",
    "Entry.py",
    "entry.js",
    "entry",
    "dist",
    "entry.py.txt",
    ".py",
    "x" * 5_000 + ".py",
    "entrypy",
]


async def refuse(worker, name):
    with pytest.raises(spindle.EntryError) as caught:
        await worker.backend_processes.spawn(name, key="held", replace_existing=True)
    return str(caught.value)


async def test_an_entry_that_may_not_be_run_is_refused_and_nothing_is_launched(world, world_clock):
    """The same names for both launchers: in memory the names are not files, and their rules are the same."""
    world.entry(WAITS)
    absolute = str(world.root / "entry.py")
    async with world.worker() as worker:
        for name in [*BAD_NAMES, absolute]:
            text = await refuse(worker, name)
            shown = name.strip().replace("\\", "/")
            assert not shown or repr(shown)[1:-1][:60] in text or "root" in text, (name, text)
        assert await worker.backend_processes.list() == []
        assert world.events == []
    assert world.events == []


async def test_a_bad_entry_leaves_a_process_with_its_key_alone(world, world_clock):
    """The entry is checked before the old process is touched."""
    world.entry(WAITS)
    async with world.worker() as worker:
        held = await worker.backend_processes.spawn("entry.py", key="held", kind="k")
        for name in BAD_NAMES:
            with pytest.raises(spindle.EntryError):
                await worker.backend_processes.spawn(name, key="held", kind="k", replace_existing=True)
        assert held.state is spindle.ProcessState.RUNNING
        assert world.states() == ["starting", "running"]


async def test_backslashes_count_as_slashes(world, world_clock):
    """An entry that was written down on Windows; everybody is shown the one form."""
    if world.is_virtual:
        world.entry(WAITS)
        world.launcher = lambda load=world.launcher: _under(load(), "dist/deep/entry.py")
    else:
        (world.root / "dist" / "deep").mkdir(parents=True)
        world.entry(WAITS, "dist/deep/entry.py")
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(".\\dist//deep\\entry.py")
        assert handle.entry == handle.kind == handle.info.entry == "dist/deep/entry.py"
    assert {event.entry for event in world.events} == {"dist/deep/entry.py"}


def _under(launcher, name):
    """Let a memory launcher know its one entry by another name."""
    from spindle_trio.testing import MemoryLauncher

    (entry,) = launcher._entries.values()
    return MemoryLauncher({name: entry})


async def test_the_error_says_what_would_be_right(world, world_clock):
    world.entry(WAITS)
    async with world.worker() as worker:
        assert ("entry.py" if world.is_virtual else "existing .py file") in await refuse(worker, "missing.py")
        assert "'..'" in await refuse(worker, "../entry.py")
        assert "absolute" in await refuse(worker, "/entry.py")
        assert "blank" in await refuse(worker, " ")


NO_ENTRIES = {
    "entry.js": r"\.js.*\.py",
    "entry.PY": r"\.PY.*\.py",
    "entry": r"no suffix.*\.py",
    "missing.py": "no file 'missing.py'",
    "folder.py": "a folder",
    "link_out.py": "links out",
    "link_up.py": "links out",
    "linked/entry.py": "links out",
    "loop.py": "cannot be used",
    "dangling.py": "no file",
    "pipe.py": "not a regular file",
    "entry.py/entry.py": "cannot be used|no file",
}


async def test_a_file_that_may_not_be_run_is_refused(real_world, tmp_path_factory):
    """On real processes only: the memory launcher has names, and no files."""
    root: Path = real_world.root
    outside = tmp_path_factory.mktemp("outside")
    (outside / "entry.py").write_text(WAITS)
    real_world.blocking_entry(WAITS)
    (root / "entry.js").write_text("")
    (root / "entry.PY").write_text(WAITS)
    (root / "entry").write_text(WAITS)
    (root / "folder.py").mkdir()
    (root / "link_out.py").symlink_to(outside / "entry.py")
    (root / "link_up.py").symlink_to(Path("..") / outside.name / "entry.py")
    (root / "linked").symlink_to(outside)
    (root / "loop.py").symlink_to("loop.py")
    (root / "dangling.py").symlink_to("nowhere.py")
    os.mkfifo(root / "pipe.py")
    async with real_world.worker() as worker:
        for name, says in NO_ENTRIES.items():
            with pytest.raises(spindle.EntryError, match=says) as caught:
                await worker.backend_processes.spawn(name)
            assert repr(name) in str(caught.value)
            assert await worker.backend_processes.list() == []
    assert real_world.events == []


async def test_a_symlink_that_stays_inside_is_followed(real_world):
    """On real processes only, as above. The entry keeps the name that it was spawned by."""
    root: Path = real_world.root
    (root / "dist").mkdir()
    real_world.entry(WAITS, "dist/entry.py")
    (root / "current").symlink_to("dist")
    (root / "short.py").symlink_to(root / "dist" / "entry.py")
    async with real_world.worker() as worker:
        for name in ("current/entry.py", "short.py"):
            handle = await worker.backend_processes.spawn(name)
            assert handle.entry == handle.kind == name


async def test_a_root_that_is_a_symlink_is_no_way_out(real_world, tmp_path):
    """On real processes only, as above."""
    real_world.entry(WAITS)
    link = tmp_path / "root"
    link.symlink_to(real_world.root, target_is_directory=True)
    async with real_world.host() as host, host.open_worker("w", root=link, user_id="ada") as worker:
        assert (await worker.backend_processes.spawn("entry.py")).state is spindle.ProcessState.RUNNING


async def test_a_root_that_is_missing_is_named(real_world):
    """On real processes only, as above."""
    missing = real_world.root / "nowhere"
    async with real_world.host() as host, host.open_worker("w", root=missing, user_id="ada") as worker:
        with pytest.raises(spindle.EntryError, match=r"root.*nowhere"):
            await worker.backend_processes.spawn("entry.py")


async def test_an_entry_need_not_be_under_dist(world, world_clock):
    world.entry(WAITS, "anywhere.py")
    async with world.worker() as worker:
        assert (await worker.backend_processes.spawn("anywhere.py")).state is spindle.ProcessState.RUNNING


# Files that are there, and cannot be run: they end before they are ready, and say why.

TAKES_THE_CONTEXT = "an entry's run takes the process's context; write: def run(process)"

BROKEN_FILES = {
    "empty": ("", ["neither a callable 'run' nor a callable 'default'"]),
    "without run": ("x = 3\n", ["neither a callable 'run' nor a callable 'default'"]),
    "no functions": ("run = 3\ndefault = None\n", ["neither a callable 'run' nor a callable 'default'"]),
    "syntax error": ("def run(process:\n    pass\n", ["SyntaxError", "line 1"]),
    "raises at import": (
        "def helper():\n    raise LookupError('no database')\nhelper()\n",
        ["LookupError: no database", "helper"],
    ),
    "missing import": ("import nowhere_to_be_found\n", ["ModuleNotFoundError", "nowhere_to_be_found"]),
    "not text": (b"\xff\xfe\x00def", ["Error"]),
    "takes no process": ("def run(): pass\n", [TAKES_THE_CONTEXT]),
    "async, takes no process": ("async def run(): pass\n", [TAKES_THE_CONTEXT]),
}


async def test_a_file_that_cannot_be_run_fails_before_ready_and_says_why(real_world):
    """On real processes only: the memory launcher is given callables, which have been loaded already."""
    async with real_world.worker() as worker:
        for number, (source, says) in enumerate(BROKEN_FILES.values()):
            file = real_world.root / f"broken_{number}.py"
            file.write_bytes(source if isinstance(source, bytes) else source.encode())
            with pytest.raises(spindle.StartupFailedError) as caught:
                await worker.backend_processes.spawn(file.name, key="k")
            info = caught.value.info
            assert (info.state, info.exit_reason) == ("failed", "failed")
            assert info.error is not None
            for text in (info.error, str(caught.value), real_world.events[-1].error):
                assert text is not None
                assert [part for part in says if part not in text] == [], text
            assert [part for part in (file.name, info.process_id) if part not in str(caught.value)] == []
            assert real_world.states(info.process_id) == ["starting", "failed"]
        assert await worker.backend_processes.list() == []


async def test_a_file_that_exits_at_import_is_judged_by_its_code(real_world):
    """On real processes only, as above. `SystemExit` with 0 counts as returning `None`, and before ready."""
    (real_world.root / "zero.py").write_text("import sys\nsys.exit()\n")
    (real_world.root / "three.py").write_text("import sys\nprint('last words', file=sys.stderr)\nsys.exit(3)\n")
    async with real_world.worker() as worker:
        with pytest.raises(spindle.StartupFailedError) as completed:
            await worker.backend_processes.spawn("zero.py")
        with pytest.raises(spindle.StartupFailedError) as failed:
            await worker.backend_processes.spawn("three.py")
    assert completed.value.info.state is spindle.ProcessState.COMPLETED
    assert failed.value.info.state is spindle.ProcessState.FAILED
    assert "exited with code 3" in str(failed.value)
    assert "last words" in str(failed.value)


async def test_a_file_that_goes_between_check_and_start_fails_before_ready(real_world):
    """On real processes only, as above. The launch finds no folder to run in, or the child no file."""
    real_world.entry(WAITS)
    launcher = real_world.launcher()

    def resolve(entry, root, really=launcher.resolve):
        resolved = really(entry, root)
        (root / "entry.py").unlink()
        return resolved

    launcher.resolve = resolve
    real_world.launcher = lambda: launcher
    async with real_world.worker() as worker:
        with pytest.raises(spindle.StartupFailedError, match=r"entry\.py"):
            await worker.backend_processes.spawn("entry.py")


async def test_an_entry_that_raises_before_ready_fails_with_its_traceback(world, world_clock):
    world.entry("""
    async def run(process):
        raise LookupError("no database")
    """)
    async with world.worker() as worker:
        with pytest.raises(spindle.StartupFailedError) as caught:
            await worker.backend_processes.spawn("entry.py")
    assert "LookupError: no database" in str(caught.value)
    assert "Traceback" in (caught.value.info.error or "")
    assert caught.value.info.process_id in str(caught.value)
    assert "entry.py" in str(caught.value)


async def test_a_launch_that_fails_is_a_launch_error_with_the_reason(world, world_clock):
    world.entry(WAITS)
    launcher = world.launcher()

    def launch(order):
        raise OSError(11, "Resource temporarily unavailable")

    really, launcher.launch = launcher.launch, launch
    world.launcher = lambda: launcher
    async with world.worker() as worker:
        with pytest.raises(spindle.LaunchError, match="Resource temporarily unavailable") as caught:
            await worker.backend_processes.spawn("entry.py", key="k")
        assert caught.value.info.process_id in str(caught.value)
        assert world.states() == ["starting", "failed"]
        assert await worker.backend_processes.list() == []
        launcher.launch = really
        await worker.backend_processes.spawn("entry.py", key="k")


async def test_a_root_is_the_current_folder_when_none_is_given(real_world, monkeypatch):
    """On real processes only, as above. The folder counts that was the current one when the worker opened."""
    real_world.entry("""
    async def run(process):
        process.ready()
        return [os.getcwd(), sys.argv, __name__]
    """)
    monkeypatch.chdir(real_world.root)
    async with real_world.host() as host, host.open_worker("w", user_id="ada") as worker:
        monkeypatch.chdir(sys.prefix)
        handle = await worker.backend_processes.spawn("entry.py")
        with trio.fail_after(10):
            await handle.wait_ended()
        assert handle.result == [str(real_world.root.resolve()), ["entry.py"], "entry"]
