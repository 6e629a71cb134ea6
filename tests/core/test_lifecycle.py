"""The lifecycle: every pair of phase and input against the contract's state table, and what time does."""

from __future__ import annotations

import itertools
import math

import pytest

from spindle_trio._model import ExitReason, ProcessState
from spindle_trio._supervision._lifecycle import Lifecycle, Step, Transition
from spindle_trio._supervision._state_table import TABLE, Action, End, Input, Phase
from spindle_trio.abc import ABANDON_SECONDS, DUMP_SECONDS
from support.state_table import follows


def lifecycle_in(
    *inputs: Input, startup: float = 10, heartbeat: float = 20, grace: float = 5, run: float = math.inf
) -> Lifecycle:
    """Begin at time 0 and say each input at time 0."""
    life = Lifecycle(startup_timeout=startup, heartbeat_timeout=heartbeat, grace_period=grace, run_seconds=run, now=0)
    for said in inputs:
        life.feed(said, 0)
    return life


def test_the_helper_reaches_each_phase() -> None:
    for phase, inputs in WAYS.items():
        assert lifecycle_in(*inputs).phase is phase


WAYS: dict[Phase, tuple[Input, ...]] = {
    Phase.STARTING: (),
    Phase.RUNNING: (Input.READY,),
    Phase.STOPPING: (Input.READY, Input.STOP),
    Phase.ENDING: (Input.READY, Input.COMPLETE),
}

DOES = {
    "-": Action.NOTHING,
    "running": Action.NOTHING,
    "stopping": Action.ASK,
    "kill": Action.KILL,
    "dump": Action.DUMP,
    "let go": Action.AWAIT_EXIT,
    "gone": Action.NOTHING,
    "abandon": Action.ABANDON,
}
"""What the supervisor has to do, for each word of the table."""


@pytest.mark.parametrize("phase", WAYS)
@pytest.mark.parametrize("said", Input)
def test_each_input_does_in_each_phase_what_the_contract_says(said: Input, phase: Phase) -> None:
    life = lifecycle_in(*WAYS[phase])
    state, settled, transition = life.state, life.settled, None
    step = life.feed(said, 1, text="why" if said is Input.ABANDON_DEADLINE else None)
    row = follows(said.value, phase.value)
    if row.does in ("running", "stopping"):
        transition = Transition(state, ProcessState(row.does), 1)
        phase, state = Phase(row.does), ProcessState(row.does)
    elif row.end is not None:
        # The end is not seen before the process has been reaped.
        phase, settled = Phase.ENDING, End(ProcessState(row.end), ExitReason(row.end))
    assert (life.phase, life.state, life.settled) == (phase, state, settled)
    assert step == Step(DOES[row.does], transition)


@pytest.mark.parametrize("said", Input)
def test_after_the_end_nothing_changes_anything(said: Input) -> None:
    life = lifecycle_in(Input.READY, Input.EXIT)
    life.conclude(3)
    before = [getattr(life, name) for name in Lifecycle.__slots__]
    assert life.feed(said, 9, text="?", result=1, host_reason=ExitReason.REPLACED) == Step(Action.NOTHING)
    assert [getattr(life, name) for name in Lifecycle.__slots__] == before
    assert life.deadline() == math.inf
    assert life.due(10**9) is None


def test_the_table_has_no_rule_that_changes_nothing_and_none_after_the_end() -> None:
    assert all(phase is not Phase.ENDED for phase, _ in TABLE)
    for (phase, _), rule in TABLE.items():
        assert rule.phase is not phase or rule.action is not Action.NOTHING


@pytest.mark.parametrize("phase", WAYS)
def test_a_settled_end_stays_whatever_comes_then(phase: Phase) -> None:
    """The child's first final word, or its killing, decides: late frames are ignored."""
    for first, second in itertools.product(Input, Input):
        life = lifecycle_in(*WAYS[phase], first)
        settled = life.settled
        if settled is not None:
            life.feed(second, 1, text="later", result="later", host_reason=ExitReason.REPLACED)
            assert life.settled == settled
            assert life.result != "later"
            assert life.conclude(2).exit_reason is settled.exit_reason


# ---- what goes with an end


def test_the_first_transition_is_into_starting() -> None:
    life = Lifecycle(startup_timeout=1, heartbeat_timeout=1, grace_period=1, now=7)
    assert life.begin() == Transition(None, ProcessState.STARTING, 7)
    assert (life.started_at, life.ready_at, life.heartbeat_at, life.ended_at) == (7, None, None, None)


def test_a_completed_process_has_its_result_once_it_has_been_reaped() -> None:
    life = lifecycle_in(Input.READY)
    life.feed(Input.COMPLETE, 1, result=[42])
    assert life.state is ProcessState.RUNNING
    assert life.conclude(2) == Transition(
        ProcessState.RUNNING, ProcessState.COMPLETED, 2, ExitReason.COMPLETED, None, [42]
    )
    assert (life.state, life.ended_at, life.exit_reason) == (ProcessState.COMPLETED, 2, ExitReason.COMPLETED)


def test_a_failed_process_has_its_error_and_no_result() -> None:
    life = lifecycle_in()
    life.feed(Input.FAIL, 1, text="it broke", result=[42])
    assert life.conclude(2) == Transition(
        ProcessState.STARTING, ProcessState.FAILED, 2, ExitReason.FAILED, "it broke", None
    )


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ((Input.READY, Input.REPORTED_STOPPED), "broke the protocol: it said stopped without being asked to"),
        ((Input.REPORTED_STOPPED,), "broke the protocol: it said stopped without being asked to"),
        ((Input.READY, Input.STOP, Input.REPORTED_STOPPED), None),
        ((Input.CONTROL_CLOSED,), "closed its control lane and lived on"),
        ((Input.STARTUP_DEADLINE,), "not ready within 10 s"),
        ((Input.READY, Input.HEARTBEAT_DEADLINE), "no heartbeat for 20 s"),
        ((Input.READY, Input.RUN_DEADLINE), "ran for longer than run_seconds=30"),
        ((Input.STOP, Input.GRACE_DEADLINE), "did not end within 5 s of the stop, and was killed"),
        ((Input.CALLER_GONE,), "the caller of spawn was cancelled"),
        ((Input.STOP, Input.KILL), "killed without a grace period"),
        ((Input.STOP, Input.EXIT), None),
        ((Input.COMPLETE,), None),
        # Killed after it had its word: its word stays as it was said.
        ((Input.COMPLETE, Input.GRACE_DEADLINE), None),
        ((Input.STOP, Input.GRACE_DEADLINE, Input.KILL), "did not end within 5 s of the stop, and was killed"),
    ],
)
def test_the_table_says_what_went_wrong_where_it_alone_knows(inputs: tuple[Input, ...], text: str | None) -> None:
    assert lifecycle_in(*inputs, run=30).conclude(0).error == text


def test_seconds_in_a_text_are_as_short_as_they_can_be() -> None:
    assert lifecycle_in(Input.STARTUP_DEADLINE, startup=0.25).conclude(1).error == "not ready within 0.25 s"


def test_a_text_that_comes_with_an_input_is_kept_even_if_it_is_empty() -> None:
    life = lifecycle_in()
    life.feed(Input.STARTUP_DEADLINE, 0, text="")
    assert life.conclude(1).error == ""


def test_a_process_concludes_only_once_its_end_is_settled() -> None:
    with pytest.raises(AssertionError, match="settled"):
        lifecycle_in(Input.READY, Input.STOP).conclude(1)


@pytest.mark.parametrize("reason", [ExitReason.REPLACED, ExitReason.BACKEND_UNLOADED])
@pytest.mark.parametrize("plain_stop_first", [True, False])
@pytest.mark.parametrize(
    "end", [Input.COMPLETE, Input.FAIL, Input.EXIT, Input.REPORTED_STOPPED, Input.GRACE_DEADLINE, Input.BROKEN]
)
def test_the_hosts_reason_wins_over_any_end(reason: ExitReason, plain_stop_first: bool, end: Input) -> None:
    life = lifecycle_in(Input.READY, *([Input.STOP] if plain_stop_first else []))
    life.feed(Input.HOST_STOP, 1, host_reason=reason)
    life.feed(end, 2, text="text", result=42)
    assert life.conclude(3) == Transition(ProcessState.STOPPING, ProcessState.STOPPED, 3, reason, "text", None)
    assert life.result is None


def test_the_first_of_the_hosts_reasons_stays() -> None:
    life = lifecycle_in()
    life.feed(Input.HOST_STOP, 1, host_reason=ExitReason.REPLACED)
    life.feed(Input.HOST_STOP, 2, host_reason=ExitReason.BACKEND_UNLOADED)
    life.feed(Input.EXIT, 3)
    assert life.conclude(4).exit_reason is ExitReason.REPLACED


def test_a_host_that_comes_after_the_end_is_settled_changes_nothing() -> None:
    life = lifecycle_in(Input.READY, Input.HEARTBEAT_DEADLINE)
    life.feed(Input.HOST_STOP, 1, host_reason=ExitReason.BACKEND_UNLOADED)
    assert life.host_reason is None
    assert life.conclude(2).exit_reason is ExitReason.TIMED_OUT


# ---- deadlines


def test_the_startup_deadline_runs_until_ready() -> None:
    life = lifecycle_in()
    assert life.deadline() == 10
    assert (life.due(9.99), life.due(10)) == (None, Input.STARTUP_DEADLINE)
    life.feed(Input.READY, 9)
    assert life.deadline() == 29
    assert (life.due(28.99), life.due(29)) == (None, Input.HEARTBEAT_DEADLINE)


def test_time_in_which_the_host_did_not_read_is_left_out_of_the_startup_deadline() -> None:
    life = lifecycle_in()
    life.extend_deadline(2.5, 2.5)
    assert (life.due(12.49), life.due(12.5)) == (None, Input.STARTUP_DEADLINE)


def test_a_process_may_ask_for_more_time_to_start() -> None:
    life = lifecycle_in()
    assert not life.grant_time(3, 4)
    assert life.grant_time(20, 4)
    assert (life.due(23.99), life.due(24)) == (None, Input.STARTUP_DEADLINE)
    life.feed(Input.STARTUP_DEADLINE, 24)
    assert life.error == "not ready within 24 s"


def test_a_stall_takes_back_nothing_of_the_time_that_was_granted() -> None:
    life = lifecycle_in()
    life.grant_time(100, 1)
    life.extend_deadline(0.5, 2)
    assert life.deadline() == 101.5


def test_a_process_may_ask_for_more_time_to_end() -> None:
    life = lifecycle_in(Input.READY, Input.STOP)
    assert life.grant_time(20, 4)
    assert (life.due(23.99), life.due(24)) == (None, Input.GRACE_DEADLINE)
    life.feed(Input.GRACE_DEADLINE, 24)
    assert life.error == "did not end within 24 s of the stop, and was killed"


@pytest.mark.parametrize("inputs", [[Input.READY], [Input.READY, Input.COMPLETE], [Input.FAIL]])
def test_there_is_no_more_time_for_anything_else(inputs: list[Input]) -> None:
    life = lifecycle_in(*inputs)
    deadline = life.deadline()
    assert not life.grant_time(1000, 0)
    assert life.deadline() == deadline


def test_a_process_gets_an_hour_in_all() -> None:
    life = lifecycle_in()
    life.grant_time(2000, 0)
    assert life.deadline() == 2000
    life.feed(Input.STOP, 5)
    life.grant_time(math.inf, 5)
    assert life.deadline() == 5 + 5 + 3600 - (2000 - 10)
    assert not life.grant_time(math.inf, 6)


def test_a_process_whose_worker_closes_gets_none() -> None:
    life = lifecycle_in(Input.READY, Input.STOP)
    life.refuse_time()
    assert not life.grant_time(20, 4)
    assert life.deadline() == 5


def test_whoever_shortens_a_grace_period_takes_back_what_was_granted() -> None:
    life = lifecycle_in(Input.READY, Input.STOP)
    life.grant_time(100, 0)
    life.feed(Input.STOP, 1, grace=2)
    assert life.deadline() == 3


def test_each_heartbeat_moves_the_deadline() -> None:
    life = lifecycle_in(Input.READY)
    life.note_heartbeat(7, 8)
    assert (life.heartbeat_at, life.deadline()) == (7, 27)


@pytest.mark.parametrize(
    ("at", "noted"), [(-math.inf, 2), (1, 2), (2, 2), (5, 5), (6, 6), (6.5, 6), (math.inf, 6), (math.nan, 2)]
)
def test_a_heartbeat_is_never_before_ready_nor_in_the_future(at: float, noted: float) -> None:
    """A child writes the time itself: what it writes must not keep it alive for longer than it lives."""
    life = lifecycle_in()
    life.feed(Input.READY, 2)
    life.note_heartbeat(at, 6)
    assert life.heartbeat_at == noted


def test_heartbeats_never_go_backwards_and_before_ready_there_are_none() -> None:
    life = lifecycle_in()
    life.note_heartbeat(1, 1)
    assert life.heartbeat_at is None
    life.feed(Input.READY, 2)
    life.note_heartbeat(9, 9)
    life.note_heartbeat(4, 9)
    assert life.heartbeat_at == 9


def test_without_a_watchdog_there_is_no_deadline() -> None:
    life = lifecycle_in(Input.READY, heartbeat=math.inf)
    assert life.deadline() == math.inf
    assert life.due(10**9) is None


def test_the_run_deadline_counts_from_ready_and_no_heartbeat_moves_it() -> None:
    life = lifecycle_in(heartbeat=4, run=6)
    assert (life.deadline(), life.due(9.99)) == (10, None)
    life.feed(Input.READY, 9)
    assert life.deadline() == 13
    life.note_heartbeat(12, 12)
    assert life.deadline() == 15
    assert (life.due(14.99), life.due(15)) == (None, Input.RUN_DEADLINE)


def test_no_stall_of_the_host_moves_the_run_deadline() -> None:
    """The process ran all the while: the limit is one on what it does, and not a judgement of whether it hangs."""
    life = lifecycle_in(Input.READY, run=6)
    life.extend_deadline(3, 3)
    assert (life.due(5.99), life.due(6)) == (None, Input.RUN_DEADLINE)


def test_a_process_that_beats_no_more_hangs_whatever_else_it_is_late_for() -> None:
    life = lifecycle_in(Input.READY, heartbeat=4, run=4)
    assert life.due(4) is Input.HEARTBEAT_DEADLINE


@pytest.mark.parametrize("said", [Input.STOP, Input.COMPLETE])
def test_a_process_that_is_to_end_has_its_grace_period_and_no_run_deadline(said: Input) -> None:
    life = lifecycle_in(Input.READY, grace=5, run=6)
    life.feed(said, 4)
    assert (life.deadline(), life.due(9)) == (9, Input.GRACE_DEADLINE)


def test_it_is_noted_what_has_settled_an_end() -> None:
    life = lifecycle_in(Input.READY)
    assert life.settled_by is None
    life.feed(Input.RUN_DEADLINE, 1)
    life.feed(Input.KILL, 2)
    assert life.settled_by is Input.RUN_DEADLINE


def test_a_stop_turns_the_watchdog_off_and_starts_one_grace_period() -> None:
    life = lifecycle_in(Input.READY)
    life.feed(Input.STOP, 3)
    assert (life.deadline(), life.due(7.99), life.due(8)) == (8, None, Input.GRACE_DEADLINE)
    life.feed(Input.STOP, 6)
    life.feed(Input.HOST_STOP, 7, host_reason=ExitReason.REPLACED)
    life.note_heartbeat(7, 7)
    assert life.deadline() == 8


def test_a_final_word_has_the_grace_period_to_be_followed_by_an_exit() -> None:
    life = lifecycle_in(Input.READY)
    life.feed(Input.COMPLETE, 100)
    assert (life.deadline(), life.due(104.9), life.due(105)) == (105, None, Input.GRACE_DEADLINE)


def test_a_final_word_while_stopping_does_not_extend_the_grace_period() -> None:
    life = lifecycle_in(Input.READY, Input.STOP)
    life.feed(Input.COMPLETE, 4)
    assert life.deadline() == 5


def test_a_killed_process_is_abandoned_in_time_and_only_once() -> None:
    life = lifecycle_in(Input.READY, Input.STOP)
    life.feed(Input.GRACE_DEADLINE, 5)
    assert life.deadline() == 5 + ABANDON_SECONDS
    life.feed(Input.KILL, 6)  # a second kill gives it no more time
    assert life.deadline() == 5 + ABANDON_SECONDS
    assert (life.due(6), life.due(6.5)) == (None, Input.ABANDON_DEADLINE)
    assert life.feed(Input.ABANDON_DEADLINE, 6.5, text="SIGKILL has not ended it").action is Action.ABANDON
    assert life.deadline() == math.inf
    assert life.due(10**9) is None
    assert life.conclude(7).error == "did not end within 5 s of the stop, and was killed; SIGKILL has not ended it"


@pytest.mark.parametrize(
    "inputs",
    [(Input.STARTUP_DEADLINE,), (Input.READY, Input.HEARTBEAT_DEADLINE), (Input.READY, Input.RUN_DEADLINE)],
)
def test_a_watchdog_leaves_time_for_a_dump_and_no_more(inputs: tuple[Input, ...]) -> None:
    life = lifecycle_in(*inputs)
    assert (life.deadline(), life.due(0.29), life.due(DUMP_SECONDS)) == (DUMP_SECONDS, None, Input.GRACE_DEADLINE)
    life.feed(Input.READY, 0.1)
    assert life.deadline() == DUMP_SECONDS
    assert life.feed(Input.GRACE_DEADLINE, 0.3).action is Action.KILL
    assert life.deadline() == 0.3 + ABANDON_SECONDS
    transition = life.conclude(0.4)
    assert transition.state is ProcessState.TIMED_OUT
    assert transition.error == life.error != "did not end within 5 s of the stop, and was killed"


def test_a_kill_does_not_wait_for_a_dump() -> None:
    life = lifecycle_in(Input.READY, Input.HEARTBEAT_DEADLINE)
    assert life.feed(Input.KILL, 0.1).action is Action.KILL
    assert life.deadline() == 0.1 + ABANDON_SECONDS


def test_it_is_noted_when_an_end_was_settled_and_how() -> None:
    life = lifecycle_in(Input.READY)
    assert life.settled_at is None
    assert not life.is_dumping
    life.feed(Input.HEARTBEAT_DEADLINE, 20)
    life.feed(Input.GRACE_DEADLINE, 21)
    assert life.settled_at == 20
    assert life.is_dumping
    assert life.ending_state is ProcessState.TIMED_OUT


def test_an_abandoned_process_without_an_error_says_just_that() -> None:
    life = lifecycle_in(Input.READY, Input.COMPLETE, Input.GRACE_DEADLINE)
    life.feed(Input.ABANDON_DEADLINE, 9, text="abandoned")
    assert life.conclude(9).error == "abandoned"


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING, Phase.STOPPING])
def test_a_process_that_closed_its_control_lane_should_be_gone_soon(phase: Phase) -> None:
    life = lifecycle_in(*WAYS[phase])
    life.note_control_closed(1, 0.5)
    life.note_control_closed(1.4, 0.5)
    assert (life.deadline(), life.due(1.49), life.due(1.5)) == (1.5, None, Input.CONTROL_CLOSED)


def test_a_closed_control_lane_is_no_news_once_the_end_is_settled() -> None:
    life = lifecycle_in(Input.READY, Input.COMPLETE)
    life.note_control_closed(0, 0.5)
    assert (life.deadline(), life.due(2)) == (5, None)


def test_an_exit_leaves_no_deadline() -> None:
    life = lifecycle_in(Input.READY, Input.EXIT)
    assert life.deadline() == math.inf
    assert life.due(10**9) is None


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING, Phase.STOPPING])
def test_what_is_due_has_a_rule(phase: Phase) -> None:
    """A deadline that the table ignored would be due again at once, and for ever."""
    life = lifecycle_in(*WAYS[phase])
    for _ in range(10):
        due = life.due(life.deadline())
        if due is None:
            break
        assert life.feed(due, life.deadline()).action is not Action.NOTHING
    assert life.deadline() == math.inf
    assert life.phase is Phase.ENDING
