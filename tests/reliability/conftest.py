"""Each test here runs at each level of containment that works on this machine, and leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.contract import exists
from support.fork_server import none_survives
from support.reliability import RARE_LEVELS, descriptors, level_fixture

level = level_fixture(RARE_LEVELS)


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse a test that leaves a process, a zombie or a descriptor."""
    before = descriptors()
    with none_survives(monkeypatch):
        yield
    assert [pid for pid in own_children() if not exists(pid)] == [], "zombies"
    assert own_children() == []
    assert descriptors() == before


def own_children() -> list[int]:
    """Which processes this program has started and not reaped."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        try:
            found += map(int, Path(f"/proc/self/task/{thread}/children").read_text().split())
        except FileNotFoundError:
            pass  # the thread has just ended
    return found
