"""Private folders for processes in sandboxes, and for the sockets of commands: made before a launch, removed after it.

All folders of a launcher lie in one of its own, which only its user may enter. A lock says that its program is alive;
the next program that needs such a folder removes those of programs that have been killed.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import trio

__all__ = ["PrivateFolder", "PrivateFolders", "remove_tree"]

_PREFIX: Final = "spindle-sandbox-"
_LOCK: Final = "lock"

_SOCKET_FOLDER_BYTES: Final = 100
"""How long the path of a folder for a socket may be: with a short name in it, `sockaddr_un` holds 107 bytes."""

REMOVE_SECONDS: Final = 2.0
"""How long the end of a process may wait for what it has left; the rest is removed in the background."""

_log = logging.getLogger("spindle_trio.launchers")


class PrivateFolders:
    """Where the private folders of one launcher lie."""

    def __init__(self) -> None:
        """Make the folder that holds them.

        Raises:
            OSError: the system refuses.
        """
        self._place: Final = os.path.realpath(tempfile.gettempdir())
        self._path: Final = tempfile.mkdtemp(prefix=_PREFIX, dir=self._place)
        # Named only once it is locked: nobody may find it unlocked while this program lives.
        self._lock = os.open(f"{self._path}/.{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(f"{self._path}/.{_LOCK}", f"{self._path}/{_LOCK}")
        self._numbers: Final = itertools.count(1)

    def make(self) -> PrivateFolder:
        """Make a fresh folder for one process.

        Raises:
            OSError: the system refuses.
        """
        path = f"{self._path}/{next(self._numbers)}"
        os.mkdir(path, 0o700)
        return PrivateFolder(path)

    async def sweep(self) -> None:
        """Remove what killed programs have left, in a thread."""
        await trio.to_thread.run_sync(_remove_orphans, self._place, abandon_on_cancel=True)

    async def aclose(self) -> None:
        """Remove the folder that holds them. Bounded; a cancellation changes nothing about that."""
        with suppress(OSError):
            os.unlink(f"{self._path}/{_LOCK}")
        await PrivateFolder(self._path).remove()
        os.close(self._lock)


class PrivateFolder:
    """The private folder of one process."""

    def __init__(self, path: str) -> None:
        """Take over a folder.

        Args:
            path: where it is.
        """
        self.path: Final = path
        self._passage: str | None = None

    def make_passage(self) -> str:
        """Make a folder beside it for a socket, and return where it is. It is removed together with this one.

        The process of a superuser may go on as another user, who has to get there: it can be passed, but not listed.

        Raises:
            OSError: the system refuses.
        """
        passage = f"{self.path}.socket"
        if len(os.fsencode(passage)) <= _SOCKET_FOLDER_BYTES:
            os.mkdir(passage, 0o700)
            passable = [passage, os.path.dirname(passage)]
        else:
            passage = tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")  # which makes a fresh one
            passable = [passage]
        self._passage = passage
        if os.geteuid() == 0:
            for folder in passable:
                os.chmod(folder, 0o711)  # noqa: S103  # as said above
        return self._passage

    async def remove(self) -> None:
        """Remove it with all that is in it. Bounded; a cancellation changes nothing about that."""
        if self._passage is not None:
            await _remove(self._passage)
        await _remove(self.path)


async def _remove(path: str) -> None:
    try:
        os.rmdir(path)  # mostly nothing is left in it
    except OSError:
        with trio.move_on_after(REMOVE_SECONDS, shield=True):
            await trio.to_thread.run_sync(remove_tree, path, abandon_on_cancel=True)


def _remove_orphans(place: str) -> None:
    """Remove the folders of programs of this user that are gone."""
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and _is_orphan(entry):
                remove_tree(entry.path)


def _is_orphan(entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_dir(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
            return False
        fd = os.open(f"{entry.path}/{_LOCK}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False  # another program is making or removing it
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # it is alive
    finally:
        os.close(fd)
    return True


def remove_tree(path: str) -> None:
    """Remove a folder with whatever a process may have left in it. Runs in a thread; logs what cannot be removed.

    A tree may be deeper than any path is long, and its folders may be closed to their owner. So what lies in a
    folder is moved up to the top before the folder is removed, and each folder is opened without following a link.
    """
    try:
        top = _open_folder(path, None)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("what a process in a sandbox has left in %s cannot be removed: %s", path, error)
        return
    try:
        numbers = itertools.count()
        while names := os.listdir(top):
            for name in names:
                _remove_entry(top, name, numbers)
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("what a process in a sandbox has left in %s cannot be removed: %s", path, error)
    finally:
        os.close(top)


def _remove_entry(top: int, name: str, numbers: Iterator[int]) -> None:
    """Remove a file at the top, or a folder once its own folders have moved up."""
    if not _is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    folder = _open_folder(name, top)
    try:
        for inner in os.listdir(folder):
            if _is_folder(inner, folder):
                os.close(_open_folder(inner, folder))  # a closed one could not be moved
                os.rename(inner, _free_name(top, numbers), src_dir_fd=folder, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _is_folder(name: str, place: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode)


def _free_name(top: int, numbers: Iterator[int]) -> str:
    for number in numbers:
        name = f".removed-{number}"
        try:
            os.stat(name, dir_fd=top, follow_symlinks=False)
        except FileNotFoundError:
            return name
    raise AssertionError("numbers do not end")


def _open_folder(name: str, place: int | None) -> int:
    """Open a folder, and open it up to its owner. No link is followed."""
    mark = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    try:
        way = f"/proc/self/fd/{mark}"
        if os.fstat(mark).st_mode & 0o700 != 0o700:
            os.chmod(way, 0o700)
        return os.open(way, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(mark)
