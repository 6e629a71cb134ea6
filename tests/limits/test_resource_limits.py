"""The value `ResourceLimits`: what it takes, and what it says about what it does not take."""

from __future__ import annotations

import math
from typing import cast

import pytest

import spindle_trio
from spindle_trio._model._resource_limits import size_text

WHOLE = ("memory", "pids", "open_files", "file_bytes")
NUMBERS = ("cpus", "cpu_seconds")


def limits(**given: object) -> spindle_trio.ResourceLimits:
    return spindle_trio.ResourceLimits(**cast("dict[str, float]", given))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan, math.inf, True, "512M", 2**63])
def test_a_limit_that_is_no_whole_number_of_1_or_more_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be a whole number of .*, 1 or more, or None, not "):
        limits(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -0.5, math.nan, math.inf, True, "1", 10**400])
def test_a_limit_that_is_no_positive_number_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be a positive, finite number of .*, or None, not "):
        limits(**{name: value})


@pytest.mark.parametrize("value", [0, -0.5, math.nan, -math.inf, True, "1", None])
def test_run_seconds_that_are_no_positive_number_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^run_seconds must be a positive number of seconds, or math.inf .*, not "):
        limits(run_seconds=value)


def test_an_error_names_the_unit() -> None:
    with pytest.raises(ValueError, match=r"^memory must be a whole number of bytes"):
        limits(memory="512M")
    with pytest.raises(ValueError, match=r"^pids must be a whole number of processes and threads"):
        limits(pids=0.5)


def test_the_limits_that_there_are_can_be_listed_and_shown() -> None:
    assert limits().given() == {}
    assert repr(limits()) == "ResourceLimits()"
    some = limits(memory=1024, cpus=0.5, run_seconds=30)
    assert some.given() == {"memory": 1024, "cpus": 0.5, "run_seconds": 30}
    assert repr(some) == "ResourceLimits(memory=1024, cpus=0.5, run_seconds=30)"


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1 bytes"), (1024, "1 KiB"), (512 * 1024**2, "512 MiB"), (1536 * 1024**2, "1.5 GiB"), (1023, "1023 bytes")],
)
def test_a_size_is_written_for_people(size: int, text: str) -> None:
    assert size_text(size) == text
