"""Who spins for an answer, for how long, and how rarely if it is in vain."""

from __future__ import annotations

import pytest

from spindle_trio._linux import _spinning
from spindle_trio._linux._spinning import FIRST_REST, LONGEST_REST, QUICK_SECONDS, SPIN_SECONDS, Spinning


@pytest.fixture(autouse=True)
def _cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spinning, "_HAS_CORES", True)


def exchange(spinning: Spinning, seconds: float) -> float:
    """Send something, and get the answer after so long; return for how long the receiver looked again."""
    spinning.note_sent()
    spun = spinning.begin()
    spinning.end(seconds)
    return spun


def test_the_first_answer_is_slept_for_and_the_next_one_is_spun_for_if_it_was_quick() -> None:
    spinning = Spinning()
    assert exchange(spinning, QUICK_SECONDS / 2) == 0
    assert exchange(spinning, SPIN_SECONDS / 2) == SPIN_SECONDS
    assert exchange(spinning, QUICK_SECONDS * 2) == SPIN_SECONDS
    assert exchange(spinning, SPIN_SECONDS / 2) == 0


def test_who_only_listens_never_spins() -> None:
    spinning = Spinning()
    exchange(spinning, SPIN_SECONDS / 2)
    assert exchange(spinning, SPIN_SECONDS / 2) == SPIN_SECONDS
    assert spinning.begin() == 0
    spinning.end(SPIN_SECONDS / 2)
    assert spinning.begin() == 0


def test_after_vain_spins_they_become_rare_and_a_quick_answer_brings_them_back() -> None:
    spinning = Spinning()
    late = (SPIN_SECONDS + QUICK_SECONDS) / 2  # too late for a spin, and quick all the same
    spins = [exchange(spinning, late) > 0 for _ in range(2000)]
    gaps = [len(gap) for gap in "".join("s" if spun else "." for spun in spins).split("s")][1:-1]
    assert gaps[:3] == [FIRST_REST, 2 * FIRST_REST, LONGEST_REST]
    assert set(gaps[2:]) == {LONGEST_REST}
    while not exchange(spinning, SPIN_SECONDS / 2):
        pass
    assert exchange(spinning, late) == SPIN_SECONDS
    rest = [exchange(spinning, SPIN_SECONDS / 2) for _ in range(FIRST_REST + 1)]
    assert rest == [0] * FIRST_REST + [SPIN_SECONDS]


def test_on_one_core_nobody_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spinning, "_HAS_CORES", False)
    spinning = Spinning()
    assert [exchange(spinning, SPIN_SECONDS / 2) for _ in range(5)] == [0] * 5
