"""For every scenario: the surroundings of its recording, and the check that nothing is left of it."""

from __future__ import annotations

import pytest


@pytest.fixture
def _surroundings(monkeypatch: pytest.MonkeyPatch, no_survivors: None) -> None:
    """Be a host with secrets, as the recorded one; refuse a test that leaves a process or a descriptor."""
    monkeypatch.setenv("AUTH_SECRET", "secret")
    monkeypatch.setenv("HARNESS_KEEP", "kept")
