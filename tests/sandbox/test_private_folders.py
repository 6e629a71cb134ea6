"""Private folders of processes: how they are removed, whatever is in them, and those of programs that were killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import spindle_trio
from spindle_trio.launchers._local._private_folders import PrivateFolders, remove_tree


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


async def test_a_folder_is_fresh_private_and_removed(place: Path) -> None:
    folders = PrivateFolders()
    one, other = folders.make(), folders.make()
    assert one.path != other.path
    assert Path(one.path).stat().st_mode & 0o777 == 0o700
    assert Path(one.path).parent.stat().st_mode & 0o777 == 0o700
    Path(one.path, "file").write_text("left")
    await one.remove()
    assert not Path(one.path).exists()
    await folders.aclose()
    assert list(place.iterdir()) == []


def test_a_tree_deeper_than_any_path_is_long_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("deeper-and-deeper", dir_fd=fd)
        inner = os.open("deeper-and-deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    remove_tree(str(top))
    assert not top.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    for link in (top / "link", top / "inner/link"):
        link.symlink_to(kept)
    remove_tree(str(top))
    assert not top.exists()
    assert (kept / "file").exists()


def test_a_folder_that_has_become_a_link_is_left_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "top").symlink_to("kept")
    with caplog.at_level(logging.WARNING, "spindle_trio.launchers"):
        remove_tree(str(tmp_path / "top"))
    assert "what a process in a sandbox has left in" in caplog.text
    assert (tmp_path / "kept/file").exists()


def test_names_that_the_removal_would_use_are_no_obstacle(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for name in (".removed-0", ".removed-1/.removed-0/.removed-1", "a/b/c"):
        (top / name).mkdir(parents=True)
    remove_tree(str(top))
    assert not top.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_folders_closed_to_their_owner_are_removed() -> None:
    program = (
        "import os, tempfile\n"
        "from spindle_trio.launchers._local._private_folders import remove_tree\n"
        "os.setuid(65534)\n"
        "top = tempfile.mkdtemp(dir='/tmp')\n"
        "os.makedirs(top + '/a/b/c')\n"
        "for name in ('/a/b/c', '/a/b', '/a', ''): os.chmod(top + name, 0)\n"
        "remove_tree(top)\n"
        "print(os.path.lexists(top))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n", ran.stderr


async def test_what_a_killed_program_has_left_is_removed_by_the_next_one(place: Path) -> None:
    program = (
        "import sys, tempfile\n"
        "from spindle_trio.launchers._local._private_folders import PrivateFolders\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "print(PrivateFolders().make().path, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        path = Path(other.stdout.readline().rstrip())
        folders = PrivateFolders()
        await folders.sweep()
        assert path.exists(), "its program is alive"
        other.send_signal(signal.SIGKILL)
    await folders.sweep()
    assert not path.exists()
    assert not path.parent.exists()
    await folders.aclose()


async def test_the_removal_outlasts_a_cancellation(place: Path) -> None:
    folders = PrivateFolders()
    folder = folders.make()
    Path(folder.path, "file").touch()
    with trio.CancelScope() as scope:
        scope.cancel()
        await folder.remove()
    assert not Path(folder.path).exists()
    await folders.aclose()
    assert list(place.iterdir()) == []


HOST = """
import sys, tempfile, trio, spindle_trio
tempfile.tempdir = sys.argv[1]

async def main():
    async with spindle_trio.open_host() as host:
        async with host.open_worker("w", root=sys.argv[2], user_id="u") as worker:
            handle = await worker.backend_processes.spawn("writes.py", sandbox=spindle_trio.READ_ONLY)
            async for message in handle.messages():
                print(message, flush=True)

trio.run(main)
"""

WRITES = """
import os, tempfile

def run(process):
    process.ready()
    with tempfile.NamedTemporaryFile(delete=False) as file:
        process.send(file.name)
    process.sleep(60)
"""


@pytest.mark.slow
async def test_what_a_killed_host_has_left_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "folders").mkdir()
    (tmp_path / "base/writes.py").write_text(WRITES)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "folders"))
    command = [sys.executable, "-c", HOST, tmp_path / "folders", tmp_path / "base"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        left = Path(killed.stdout.readline().rstrip())
        assert left.parent.parent.parent == tmp_path / "folders"
        killed.kill()
    assert left.exists()
    with trio.fail_after(20):
        async with (
            spindle_trio.open_host(sandbox=spindle_trio.READ_ONLY) as host,
            host.open_worker("w", root=tmp_path / "base", user_id="u") as worker,
        ):
            await worker.backend_processes.spawn("writes.py")
            while left.parent.parent.exists():
                await trio.sleep(0.01)
    assert list((tmp_path / "folders").iterdir()) == []


NEVER_READY = """
import os, tempfile, time

def run(process):
    open(os.environ["TMPDIR"] + "/file", "w").close()
    process.send(True)
    time.sleep(60)
"""


async def test_no_folder_is_left_by_a_spawn_that_was_cancelled_or_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "folders").mkdir()
    (tmp_path / "base/never.py").write_text(NEVER_READY)
    (tmp_path / "base/fails.py").write_text("def run(process):\n    raise ValueError\n")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "folders"))
    with trio.fail_after(20):
        async with (
            spindle_trio.open_host(sandbox=spindle_trio.READ_ONLY) as host,
            host.open_worker("w", root=tmp_path / "base", user_id="u") as worker,
        ):
            messages = worker.backend_processes.messages()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.backend_processes.spawn, "never.py")
                await messages.receive()
                nursery.cancel_scope.cancel()
            with pytest.raises(spindle_trio.StartupFailedError):
                await worker.backend_processes.spawn("fails.py")
            (own,) = (tmp_path / "folders").iterdir()
            while [entry.name for entry in own.iterdir()] != ["lock"]:
                await trio.sleep(0.01)
    assert list((tmp_path / "folders").iterdir()) == []
