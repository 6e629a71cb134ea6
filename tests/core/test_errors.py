"""The error tree: the bases and attributes of each error."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from spindle_trio import _errors as errors
from spindle_trio._model import ProcessInfo, ProcessState

INFO = ProcessInfo("p1", "a.py", "a.py", ProcessState.FAILED, datetime(2026, 3, 1, tzinfo=UTC))

PARENTS = {
    errors.SpindleError: Exception,
    errors.SpawnRefusedError: errors.SpindleError,
    errors.EntryError: errors.SpawnRefusedError,
    errors.UserRequiredError: errors.SpawnRefusedError,
    errors.DuplicateKeyError: errors.SpawnRefusedError,
    errors.ProcessLimitError: errors.SpawnRefusedError,
    errors.KeyLostError: errors.SpawnRefusedError,
    errors.ResourceLimitError: errors.SpawnRefusedError,
    errors.SandboxError: errors.SpawnRefusedError,
    errors.SpawnError: errors.SpindleError,
    errors.LaunchError: errors.SpawnError,
    errors.StartupTimeoutError: errors.SpawnError,
    errors.StartupFailedError: errors.SpawnError,
    errors.StartupCancelledError: errors.SpawnError,
    errors.CallError: errors.SpindleError,
    errors.CallFailedError: errors.CallError,
    errors.UnknownMethodError: errors.CallError,
    errors.CallTimeoutError: errors.CallError,
    errors.ProcessLostError: errors.CallError,
    errors.PoolBrokenError: errors.CallError,
    errors.ProcessAccessError: errors.SpindleError,
    errors.ServiceGaveUpError: errors.SpindleError,
    errors.PayloadError: errors.SpindleError,
    errors.LaggedError: errors.SpindleError,
    errors.ProtocolError: errors.SpindleError,
    errors.LocalProtocolError: errors.ProtocolError,
    errors.PeerProtocolError: errors.ProtocolError,
}


@pytest.mark.parametrize(("error", "parent"), PARENTS.items())
def test_each_error_has_its_place_in_the_tree(error: type[Exception], parent: type[Exception]) -> None:
    assert error.__bases__[0] is parent


def test_the_tree_has_no_other_errors() -> None:
    found = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert found == set(PARENTS)


def test_what_is_also_a_builtin_error_can_be_caught_as_one() -> None:
    assert issubclass(errors.StartupTimeoutError, TimeoutError)
    assert issubclass(errors.PayloadError, ValueError)
    assert issubclass(errors.ResourceLimitError, ValueError)
    assert issubclass(errors.CallTimeoutError, TimeoutError)


@pytest.mark.parametrize(
    "kind",
    [errors.LaunchError, errors.StartupTimeoutError, errors.StartupFailedError, errors.StartupCancelledError],
)
def test_a_failed_spawn_says_why_and_of_which_process(kind: type[errors.SpawnError]) -> None:
    """`TimeoutError` is an `OSError`, which gives a second positional argument a meaning of its own."""
    error = kind("a.py did not start", info=INFO)
    assert str(error) == "a.py did not start"
    assert error.args == ("a.py did not start",)
    assert error.info is INFO


def test_a_refused_spawn_carries_what_stood_in_its_way() -> None:
    assert errors.DuplicateKeyError("taken", INFO).existing is INFO
    assert errors.ProcessLimitError("full", 16).limit == 16
    assert str(errors.ProcessLimitError("full", 16)) == "full"


def test_a_lagged_subscription_says_how_much_it_missed() -> None:
    error = errors.LaggedError(7)
    assert error.missed == 7
    assert "missed 7 value(s)" in str(error)


def test_a_failed_call_says_what_was_raised() -> None:
    error = errors.CallFailedError("no", error_type="ValueError", text="no such folder", traceback="Traceback …")
    assert (error.error_type, error.text, error.traceback) == ("ValueError", "no such folder", "Traceback …")
    assert errors.UnknownMethodError("no", known=["a", "b"]).known == ("a", "b")


def test_a_lost_process_says_which_and_whether_it_had_the_call() -> None:
    error = errors.ProcessLostError("gone", info=INFO, handed_over=True)
    assert (error.info, error.post_mortem, error.handed_over) == (INFO, None, True)
    assert error.args == ("gone",)


def test_an_error_of_a_call_says_which_call_it_was() -> None:
    error = errors.CallTimeoutError("too late")
    assert (error.method, error.process_id, error.entry) == (None, None, None)
    assert error.concerning("square", entry="a.py", process_id="p1") is error
    assert (error.method, error.process_id, error.entry) == ("square", "p1", "a.py")
    assert error.args == ("too late",)
