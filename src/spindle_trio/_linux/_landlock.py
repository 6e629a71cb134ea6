"""Landlock: what files this process may reach, and which sockets and processes outside. It binds all that it starts.

Kernels have learned it step by step; each step is a version of its interface (ABI).
"""

from __future__ import annotations

import errno
import os

from spindle_trio._linux._syscalls import call, system_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_OPENAT2 = 437

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_FIRST = (1 << 13) - 1
"""All rights of the first version."""

_LATER = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEVICE))
"""Later rights, with the version that brought each."""

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
"""Rights that a file can have; the others are those of a folder."""

_OF_DEVICES = _MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEVICE
"""Rights that go with the whole file system only."""

_TCP = 0b11
_SCOPES = 0b11
"""Binding and connecting TCP sockets; reaching abstract Unix sockets, and signalling processes, outside."""

_OPEN_FLAGS = os.O_PATH | os.O_CLOEXEC
_HOW_TO_OPEN = b"".join(number.to_bytes(8, "little") for number in (_OPEN_FLAGS, 0, 4))  # RESOLVE_NO_SYMLINKS

_NO_NEW_PRIVILEGES, _ASK_PRIVILEGES = 38, 39


def version() -> int:
    """Return the version of the interface that this kernel has.

    Raises:
        OSError: it has none, or it is switched off, or a filter of system calls refuses it.
    """
    return system_call(_CREATE, 0, 0, 1)


def restrict(read: Iterable[str], write: Iterable[str], listed: Iterable[str] = (), *, tcp: bool) -> None:
    """Restrict this process, which has one thread, and all that it will start. It cannot be undone.

    Args:
        read: files and folders that it may read and run.
        write: those that it may change as well; devices can be made there only if it is ``/``.
        listed: folders of which it may list the names, and those of all folders in them.
        tcp: whether it may use TCP.

    Raises:
        OSError: a path leads through a link by now, or the kernel refuses.
    """
    rules = make_rules(read, write, listed, tcp=tcp)
    try:
        forbid_new_privileges()
        system_call(_RESTRICT, rules, 0)
    finally:
        os.close(rules)


def make_rules(read: Iterable[str], write: Iterable[str], listed: Iterable[str] = (), *, tcp: bool) -> int:
    """Make the rules for `restrict`, and return a descriptor of them. They hold for nobody yet.

    Raises:
        OSError: as for `restrict`.
    """
    abi = version()
    rights = _FIRST | sum(right for since, right in _LATER if abi >= since)
    fields = [rights]
    if abi >= 4:
        fields.append(0 if tcp else _TCP)
    if abi >= 6:
        fields.append(_SCOPES)
    attribute = b"".join(field.to_bytes(8, "little") for field in fields)
    rules = system_call(_CREATE, attribute, len(attribute), 0)
    try:
        for path in read:
            _allow(rules, path, _READ)
        for path in listed:
            _allow(rules, path, _READ_DIR)
        for path in write:
            # Even where all files are allowed there is a rule: only a process with one cannot look into others.
            _allow(rules, path, rights if path == "/" else rights & ~_OF_DEVICES)
    except BaseException:
        os.close(rules)
        raise
    return rules


def refuse_threads() -> None:
    """Make sure that this process has one thread: the others would stay outside of the sandbox.

    Raises:
        OSError: it has more, or there is no `/proc`.
    """
    # A folder has a link from its parent, one from itself, and one from each folder in it.
    if os.stat("/proc/self/task").st_nlink != 3:
        raise OSError(errno.EBUSY, "it has other threads, which would stay outside")


def forbid_new_privileges() -> None:
    """Have no program that this process runs gain rights by its file, as a set-user-id program does."""
    call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def gains_privileges() -> bool:
    """Whether programs that this process runs can still gain rights."""
    try:
        call("prctl", _ASK_PRIVILEGES, 0, 0, 0, 0)
    except OSError:
        return False  # the answer is no zero
    return True


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        fd = _open(path)
    except FileNotFoundError:
        return  # it has been removed, and so nothing is allowed there
    try:
        if os.fstat(fd).st_mode & 0o170000 != 0o040000:
            rights &= _OF_FILES
        system_call(_ADD, rules, 1, rights.to_bytes(8, "little") + fd.to_bytes(4, "little"), 0)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    """Open a path that must not lead through a link, unless it is this process's own place in `/proc`."""
    if path.startswith("/proc/self"):
        return os.open(path, _OPEN_FLAGS)
    return system_call(_OPENAT2, -100, os.fsencode(path) + b"\0", _HOW_TO_OPEN, len(_HOW_TO_OPEN))
