"""Leftovers that no test may have: a descriptor, a child process, a zombie, or anything that a fork server started."""

from __future__ import annotations

import gc
import os
import select
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

MARK = "LC_SPINDLE_TEST"
"""A variable that a fork server takes over from its host, and with it all that descends from it."""

LAST_SECONDS = 2.0
"""How long a process may take to go that nobody waits for, since whoever ended it has been killed (reliability, 1)."""


def open_descriptors() -> set[str]:
    """Which descriptors this program has open, with what they refer to."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{link.name} → {link.readlink()}")
        except OSError:
            pass  # the one that this listing needed itself
    return found


def own_children() -> set[int]:
    """Which processes this program has started and not reaped."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (thread / "children").read_text().split()))
        except OSError:
            pass  # a thread that has just ended, whose children are its process's other threads' now
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Refuse a test that leaves a child process, a zombie or a descriptor."""
    before = own_children(), open_descriptors()
    yield
    if (own_children(), open_descriptors()) != before:
        gc.collect()  # only then: it takes longer than many a test
        children, descriptors = own_children() - before[0], open_descriptors() - before[1]
        assert not children, f"left behind: {[describe(pid) for pid in children]}"
        assert not descriptors, f"left open: {sorted(descriptors)}"
        assert (own_children(), open_descriptors()) == before, "a process or a descriptor of somebody else has gone"


@pytest.fixture
def no_survivors(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse as well what is no child of this program: whatever a fork server of the test has started."""
    with none_survives(monkeypatch):
        yield


@contextmanager
def none_survives(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse a block that leaves a fork server, or anything that descends from one."""
    mark = f"{MARK}={uuid.uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))
    yield
    deadline = monotonic() + LAST_SECONDS
    for pid in alive(mark):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        select.select([pidfd], [], [], max(0.0, deadline - monotonic()))
        os.close(pidfd)
    survivors = [describe(pid) for pid in alive(mark)]
    assert not survivors, f"still alive: {survivors}"


def alive(mark: str) -> list[int]:
    """Find the processes that have been started with a mark in their environment. A zombie has none."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in environment.split(b"\0") and int(pid) != os.getpid():
            found.append(int(pid))
    return found


def describe(pid: int) -> str:
    """Describe a process, to find out why it is still there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return f"{pid}, gone meanwhile"
