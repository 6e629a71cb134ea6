"""Each test here runs at each level of containment that works on this machine, and leaves nothing behind."""

from __future__ import annotations

import pytest

from support.reliability import RARE_LEVELS, level_fixture

level = level_fixture(RARE_LEVELS)


@pytest.fixture(params=[pytest.param(8, id="together"), pytest.param(1, id="one by one", marks=pytest.mark.slow)])
def at_once(request: pytest.FixtureRequest) -> int:
    """How many mischiefs happen at a time."""
    number: int = request.param
    return number


@pytest.fixture(autouse=True)
def _nothing_left(no_survivors: None) -> None:
    """Refuse a test that leaves a process, a zombie or a descriptor."""
