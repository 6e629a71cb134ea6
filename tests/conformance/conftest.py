"""What holds for every scenario: the surroundings in which it was recorded, and that nothing is left of it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from support.fork_server import none_survives


@pytest.fixture
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a host with secrets, as the recorded one; refuse a test that leaves a process or a descriptor."""
    monkeypatch.setenv("AUTH_SECRET", "secret")
    monkeypatch.setenv("HARNESS_KEEP", "kept")
    before = len(os.listdir("/proc/self/fd"))
    with none_survives(monkeypatch):
        yield
    if len(os.listdir("/proc/self/fd")) != before:
        gc.collect()  # only then: it takes as long as a scenario
    assert len(os.listdir("/proc/self/fd")) == before
