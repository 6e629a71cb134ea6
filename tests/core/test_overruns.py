"""Calls that were cancelled and go on: their deadlines, as the lifecycle sees them."""

from __future__ import annotations

import math

from spindle_trio._model import ProcessState
from spindle_trio._supervision._lifecycle import Lifecycle
from spindle_trio._supervision._overruns import Overruns
from spindle_trio._supervision._state_table import Action, Input
from spindle_trio.abc import DUMP_SECONDS


def running(grace: float = 2, heartbeat: float = math.inf) -> Lifecycle:
    life = Lifecycle(startup_timeout=10, heartbeat_timeout=heartbeat, grace_period=5, now=0)
    life.feed(Input.READY, 0)
    life.overruns = Overruns(grace)
    return life


def overruns_of(life: Lifecycle) -> Overruns:
    assert life.overruns is not None
    return life.overruns


def test_nothing_is_watched_at_first() -> None:
    assert running().deadline() == math.inf


def test_the_earliest_cancelled_call_counts_and_its_end_leaves_the_next() -> None:
    life = running()
    overruns = overruns_of(life)
    overruns.begin(7, "b", 4)
    overruns.begin(3, "a", 1)
    assert life.deadline() == 3
    assert (life.due(2.99), life.due(3)) == (None, Input.CALL_OVERRUN)
    assert overruns.words == "its handler of 'a' went on for 2 s after call 3 was cancelled"
    assert overruns.end(3)
    assert life.deadline() == 6
    assert not overruns.end(3)
    assert overruns.end(7)
    assert life.deadline() == math.inf


def test_the_time_of_a_call_that_waits_behind_others_runs_from_when_it_can_have_begun() -> None:
    life = running()
    overruns = overruns_of(life)
    for call_id, at in [(5, 1), (6, 2), (7, 40), (8, 1)]:
        overruns.begin(call_id, "a", at, is_waiting=True)
    overruns.begin(6, "a", 9, is_waiting=True)
    assert overruns.has_waiting
    life.extend_deadline(5, 9)
    assert life.deadline() == math.inf
    assert not overruns.note_begun(4, 10)
    assert not overruns.end(5)
    assert overruns.note_begun(7, 10)
    assert life.deadline() == 12
    assert overruns.end(6)
    assert life.deadline() == 42
    overruns.end(8)
    assert not overruns.has_waiting


def test_a_call_that_is_cancelled_before_its_own_time_is_due_sooner_and_never_later() -> None:
    life = running()
    overruns_of(life).begin(1, "a", 100)
    overruns_of(life).begin(1, "a", 5)
    assert life.deadline() == 7
    overruns_of(life).begin(1, "a", 50)
    assert life.deadline() == 7


def test_time_that_does_not_count_puts_off_what_runs_and_no_further_than_the_whole_grace() -> None:
    life = running()
    overruns = overruns_of(life)
    overruns.begin(1, "a", 10)
    life.extend_deadline(0.5, 11)
    assert life.deadline() == 12.5
    life.extend_deadline(50, 12)
    assert life.deadline() == 14


def test_time_before_a_call_is_cancelled_puts_off_nothing() -> None:
    life = running()
    overruns_of(life).begin(1, "a", 10)
    life.extend_deadline(3, 5)
    assert life.deadline() == 12


def test_a_missed_heartbeat_is_named_first() -> None:
    life = running(heartbeat=12)
    overruns_of(life).begin(1, "a", 10)
    assert life.due(12) is Input.HEARTBEAT_DEADLINE


def test_an_overrun_ends_a_process_with_a_dump() -> None:
    life = running()
    assert life.feed(Input.CALL_OVERRUN, 12, text="words").action is Action.DUMP
    assert (life.error, life.ending_state) == ("words", ProcessState.TIMED_OUT)
    assert life.feed(Input.CALL_OVERRUN, 12).action is Action.NOTHING


def test_the_time_of_a_cancelled_call_goes_on_while_its_process_stops() -> None:
    life = running()
    overruns_of(life).begin(1, "a", 10)
    life.feed(Input.STOP, 11)
    assert (life.deadline(), life.due(11.99), life.due(12)) == (12, None, Input.CALL_OVERRUN)
    life.extend_deadline(0.5, 11.5)
    assert life.deadline() == 12.5
    assert life.feed(Input.CALL_OVERRUN, 12.5, text="words").action is Action.DUMP
    assert (life.error, life.ending_state, life.is_dumping) == ("words", ProcessState.STOPPED, True)
    assert life.deadline() == 12.5 + DUMP_SECONDS


def test_the_grace_period_of_a_stop_counts_all_the_same() -> None:
    life = running()
    overruns_of(life).begin(1, "a", 15)
    life.feed(Input.STOP, 11)
    assert (life.deadline(), life.due(17)) == (16, Input.GRACE_DEADLINE)
