"""The values that every layer shares: their defaults, their checks and their status lines."""

from __future__ import annotations

import math
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import attrs
import pytest

from spindle_trio._model import (
    OMITTED,
    REFERENCE_LIMITS,
    Containment,
    ExitReason,
    LifecycleEvent,
    Limits,
    ProcessFilter,
    ProcessInfo,
    ProcessState,
    SpawnArguments,
    SpawnOptions,
    StopOptions,
)
from spindle_trio._model._command import Command
from spindle_trio._model._resource_limits import ResourceLimits
from spindle_trio._model._sandbox import Sandbox

AT = datetime(2026, 3, 1, tzinfo=UTC)


def test_type_checkers_see_the_options_of_a_spawn_as_they_are() -> None:
    loaded_later = {"Command": Command, "ResourceLimits": ResourceLimits, "Sandbox": Sandbox}  # most never load them
    options = get_type_hints(SpawnOptions, localns=loaded_later)
    del options["entry"]
    assert get_type_hints(SpawnArguments, localns=loaded_later) == options


def test_an_omitted_payload_shows_itself_as_such() -> None:
    assert repr(OMITTED) == "OMITTED"
    assert SpawnOptions("a.py").payload is OMITTED


@pytest.mark.parametrize(
    ("state", "is_terminal"),
    [
        (ProcessState.STARTING, False),
        (ProcessState.RUNNING, False),
        (ProcessState.STOPPING, False),
        (ProcessState.STOPPED, True),
        (ProcessState.COMPLETED, True),
        (ProcessState.FAILED, True),
        (ProcessState.TIMED_OUT, True),
    ],
)
def test_a_state_knows_whether_it_is_the_last(state: ProcessState, is_terminal: bool) -> None:
    assert state.is_terminal is is_terminal


def test_states_and_exit_reasons_are_their_names_on_the_wire() -> None:
    assert [str(state) for state in ProcessState] == [
        "starting", "running", "stopping", "stopped", "completed", "failed", "timed_out",
    ]  # fmt: skip
    assert [str(reason) for reason in ExitReason] == [
        "completed", "failed", "stopped", "timed_out", "backend_unloaded", "replaced",
    ]  # fmt: skip


def test_spawn_options_have_the_contracts_defaults() -> None:
    options = SpawnOptions("a.py")
    assert (options.startup_timeout, options.heartbeat_timeout) == (15, 15)
    assert (options.kind, options.key, options.metadata, options.user_id) == (None, None, None, None)
    assert options.replace_existing is False


NO_TIMEOUTS = [0, -1, -math.inf, math.nan, True, "15", None, 10**400, b"1", 1j]


@pytest.mark.parametrize("timeout", [*NO_TIMEOUTS, math.inf])
def test_a_startup_timeout_is_a_positive_finite_number(timeout: float) -> None:
    """An integer beyond the floats is less than infinity, and yet no clock can be set by it."""
    with pytest.raises(ValueError, match="startup_timeout must be a positive, finite number of seconds, not "):
        SpawnOptions("a.py", startup_timeout=timeout)


@pytest.mark.parametrize("timeout", NO_TIMEOUTS)
def test_a_heartbeat_timeout_is_a_positive_number(timeout: float) -> None:
    with pytest.raises(ValueError, match=r"heartbeat_timeout must be a positive number of seconds, or math\.inf"):
        SpawnOptions("a.py", heartbeat_timeout=timeout)


@pytest.mark.parametrize("timeout", [1, 0.001, sys.float_info.max, 10**300, sys.float_info.min])
def test_any_positive_timeout_that_a_clock_can_be_set_by_is_taken(timeout: float) -> None:
    options = SpawnOptions("a.py", startup_timeout=timeout, heartbeat_timeout=timeout)
    assert (options.startup_timeout, options.heartbeat_timeout) == (timeout, timeout)


def test_an_infinite_heartbeat_timeout_is_no_watchdog() -> None:
    assert SpawnOptions("a.py", heartbeat_timeout=math.inf).heartbeat_timeout == math.inf


@pytest.mark.parametrize("field", ["kind", "key", "user_id"])
@pytest.mark.parametrize("value", [1, b"x", ["x"], True])
def test_names_are_texts(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{field} must be a str or None, not {type(value).__name__}"):
        SpawnOptions("a.py", **{field: value})
    with pytest.raises(TypeError, match=f"{field} must be a str or None"):
        ProcessFilter(**{field: value})


@pytest.mark.parametrize("field", ["user_id", "reason"])
def test_what_goes_with_a_stop_is_text(field: str) -> None:
    with pytest.raises(TypeError, match=f"{field} must be a str or None, not int"):
        StopOptions(**{field: 1})


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_replacing_is_asked_for_with_a_bool(value: bool) -> None:
    with pytest.raises(TypeError, match="replace_existing must be a bool, not"):
        SpawnOptions("a.py", replace_existing=value)


def test_a_filter_takes_a_state_by_name_too_and_refuses_what_is_none() -> None:
    assert ProcessFilter(state="running").state is ProcessState.RUNNING  # type: ignore[arg-type]  # by name
    assert ProcessFilter().state is None
    with pytest.raises(ValueError, match="asleep"):
        ProcessFilter(state="asleep")  # type: ignore[arg-type]  # what is tested


def test_a_snapshot_shows_itself_as_a_status_line() -> None:
    info = ProcessInfo("p1", "a.py", "a.py", ProcessState.RUNNING, AT)
    assert repr(info) == "<ProcessInfo running a.py p1>"
    full = attrs.evolve(info, kind="indexer", key="chat:42")
    assert repr(full) == "<ProcessInfo running a.py p1 kind='indexer' key='chat:42'>"


def test_an_event_shows_the_state_that_it_left() -> None:
    event = LifecycleEvent("p1", "a.py", "a.py", ProcessState.STARTING, AT)
    assert repr(event) == "<LifecycleEvent starting a.py p1>"
    later = attrs.evolve(event, state=ProcessState.FAILED, previous_state=ProcessState.RUNNING, key="k")
    assert repr(later) == "<LifecycleEvent running → failed a.py p1 key='k'>"


def test_values_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Limits().depth = 3  # type: ignore[misc]  # what is tested


def test_the_repr_of_limits_shows_what_differs_from_the_defaults() -> None:
    assert repr(Limits()) == "Limits()"
    assert repr(Limits(depth=3, key_bytes=9)) == "Limits(depth=3, key_bytes=9)"


def test_the_limits_are_the_contracts() -> None:
    assert attrs.asdict(Limits()) == {
        "frame_bytes": 2**24,
        "depth": 64,
        "values": 100_000,
        "inbox_messages": 1_024,
        "inbox_bytes": 4 * 2**20,
        "outbox_bytes": 2**20,
        "lifecycle_events": 1_024,
        "ending_bytes": 64 * 2**20,
        "frame_seconds": 5,
        "recent": 100,
        "text_bytes": None,
        "container_entries": None,
        "kind_bytes": None,
        "key_bytes": None,
        "entry_bytes": None,
        "reason_bytes": None,
        "error_bytes": None,
        "binary_bytes": 256 * 2**20,
        "log_lines": 100,
    }


def test_the_references_limits_are_its_own() -> None:
    assert attrs.asdict(REFERENCE_LIMITS) == attrs.asdict(Limits()) | {
        "depth": 32,
        "values": 10_000,
        "text_bytes": 256 * 1024,
        "container_entries": 1_000,
        "kind_bytes": 128,
        "key_bytes": 256,
        "entry_bytes": 4_096,
        "reason_bytes": 4_096,
        "error_bytes": 4_096,
    }


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Limits) if field.name != "frame_seconds"])
@pytest.mark.parametrize("value", [-1, 1.0, True, "1", math.inf])
def test_a_bound_is_a_whole_number(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be an integer, [01] or more, not "):
        Limits(**{field: value})


@pytest.mark.parametrize(
    "field",
    ["frame_bytes", "values", "inbox_messages", "inbox_bytes", "outbox_bytes", "lifecycle_events", "ending_bytes"],
)
def test_a_bound_of_nothing_is_refused_where_it_would_stop_everything(field: str) -> None:
    """An inbox for no messages would wedge its process, and a channel for no events its publisher."""
    with pytest.raises(ValueError, match=f"{field} must be an integer, 1 or more, not 0"):
        Limits(**{field: 0})


@pytest.mark.parametrize("field", ["depth", "text_bytes", "container_entries", "kind_bytes"])
def test_what_a_value_may_contain_may_be_nothing(field: str) -> None:
    assert getattr(Limits(**{field: 0}), field) == 0


@pytest.mark.parametrize("value", [0, -1, math.nan, True, "5", None])
def test_a_bound_of_seconds_is_a_positive_number(value: float) -> None:
    with pytest.raises(ValueError, match="frame_seconds must be a positive number of seconds, not "):
        Limits(frame_seconds=value)
    assert Limits(frame_seconds=math.inf).frame_seconds == math.inf


def test_only_the_references_own_bounds_may_be_absent() -> None:
    with pytest.raises(ValueError, match="depth must be an integer, 0 or more, not None"):
        Limits(depth=None)  # type: ignore[arg-type]  # what is tested
    assert Limits(text_bytes=None, kind_bytes=1).text_bytes is None


def test_levels_of_containment_are_ordered_by_what_they_hold_together() -> None:
    levels = list(Containment)
    assert levels[0] is Containment.PIDNS
    for place, level in enumerate(levels):
        assert [level.is_at_least(other) for other in levels] == [place <= other for other in range(len(levels))]


@pytest.mark.parametrize(
    ("surroundings", "error", "words"),
    [
        ({"environment": [("A", "1")]}, TypeError, "environment must be a mapping of str to str, or None, not list"),
        ({"environment": {"A": 1}}, TypeError, "environment must map str to str, not 'A' to 1"),
        ({"environment": {"A=B": "1"}}, ValueError, "no environment can hold the variable 'A=B'"),
        ({"environment": {"": "1"}}, ValueError, "no environment can hold the variable ''"),
        ({"environment": {"A": "\0"}}, ValueError, "nor a name or a value a NUL"),
        ({"environment": {"A": "\ud800"}}, ValueError, "it contains a lone surrogate"),
        ({"arguments": "--fast"}, TypeError, "arguments must be a sequence of str, as in"),
        ({"arguments": 5}, TypeError, "arguments must be a sequence of str, as in"),
        ({"arguments": ["a", 1]}, TypeError, "arguments must be a sequence of str; 1 is not a str"),
        ({"arguments": ["\0"]}, ValueError, "contains a NUL"),
        ({"arguments": ["\ud800"]}, ValueError, "contains a lone surrogate"),
        ({"folder": 5}, TypeError, "folder must be a str or a path, or None, not int"),
        ({"grace_period": -1}, ValueError, "grace_period must be a finite number of seconds, 0 or more, not -1"),
        (
            {"replace_grace": math.inf},
            ValueError,
            "replace_grace must be a finite number of seconds, 0 or more, not inf",
        ),
    ],
)
def test_surroundings_that_no_process_can_have_are_refused(
    surroundings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        SpawnOptions("a.py", **surroundings)


def test_surroundings_are_kept_as_they_were_given() -> None:
    given = {"A": "1", "B": "\udcff"}  # a byte that is not UTF-8
    options = SpawnOptions("a.py", environment=given, arguments=["--fast"], folder=Path("data"))
    given.clear()
    assert (options.environment, options.arguments, options.folder) == (
        {"A": "1", "B": "\udcff"},
        ("--fast",),
        "data",
    )
