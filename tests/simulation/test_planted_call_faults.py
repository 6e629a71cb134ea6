"""The engine fails when it should, for calls: as `test_planted_faults`, with faults in what a host does about them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import pytest
import trio

from simulation.test_planted_faults import Patch, assert_is_caught, replace
from spindle_trio._errors import ProcessLostError
from spindle_trio._messages._item_channel import ItemChannel
from spindle_trio._protocol._call_answers import StreamEnd, encode_call
from spindle_trio._protocol._call_frames import ANSWER
from spindle_trio._supervision import _call_intake, _call_sender, _calls
from spindle_trio._supervision._call_errors import lost_error
from spindle_trio._supervision._call_intake import CallIntake
from spindle_trio._supervision._call_sender import CallSender
from spindle_trio._supervision._call_stream import CallStream
from spindle_trio._supervision._calls import ProcessCalls
from spindle_trio._supervision._outgoing import Outgoing
from spindle_trio._supervision._overrun_watch import OverrunWatch
from spindle_trio._supervision._overruns import Overruns
from spindle_trio._supervision._process_record import ProcessRecord
from spindle_trio._supervision._state_table import TABLE, Input, Phase, Rule
from spindle_trio._supervision._supervised_process import SupervisedProcess


def an_answer_is_dropped(patch: Patch) -> None:
    """That of each third call."""

    def make(original: Any) -> Any:
        def take(intake: CallIntake, bodies: list[bytes]) -> None:
            original(intake, [body for body in bodies if body[:1] != ANSWER or json.loads(body[1:])[0] % 3])

        return take

    replace(patch, CallIntake, "_take", make)


def a_call_may_be_answered_twice(patch: Patch) -> None:
    newest: defaultdict[CallIntake, int] = defaultdict(int)

    def make(original: Any) -> Any:
        def take(intake: CallIntake, bodies: list[bytes]) -> None:
            for body in bodies:
                newest[intake] = max([newest[intake], *intake._pending])
                call_id = intake._reader.read(body).call_id
                if call_id in intake._pending or call_id > newest[intake]:
                    original(intake, [body])

        return take

    replace(patch, CallIntake, "_take", make)


def a_cancel_is_not_sent(patch: Patch) -> None:
    replace(patch, Outgoing, "say", lambda original: lambda own, body: b'"cancel"' in body or original(own, body))


def a_call_is_cancelled_although_its_answer_has_come(patch: Patch) -> None:
    """It shows only where a deadline and an answer meet at one instant."""

    def make(original: Any) -> Any:
        def give_up(calls: ProcessCalls, call: Any) -> None:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(CallIntake, "take_in", lambda _: None)
                original(calls, call)

        return give_up

    replace(patch, ProcessCalls, "give_up", make)


def an_overrun_kills_at_once(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def begin(overruns: Overruns, call_id: int, method: str, at: float, **more: Any) -> None:
            original(overruns, call_id, method, at - overruns._grace, **more)

        return begin

    replace(patch, Overruns, "begin", make)


def an_overrun_never_kills(patch: Patch) -> None:
    patch.setattr(Overruns, "begin", lambda *_, **__: None)


def a_cancelled_call_has_the_whole_grace_period_of_a_stop(patch: Patch) -> None:
    patch.delitem(cast("dict[tuple[Phase, Input], Rule]", TABLE), (Phase.STOPPING, Input.CALL_OVERRUN))


def a_call_that_waits_behind_others_is_judged(patch: Patch) -> None:
    replace(patch, Overruns, "begin", lambda original: lambda *about, **_: original(*about))


def a_call_that_has_waited_behind_others_is_not_judged(patch: Patch) -> None:
    patch.setattr(Overruns, "note_begun", lambda *_: False)


def a_handler_that_gives_up_in_time_is_killed(patch: Patch) -> None:
    patch.setattr(Overruns, "end", lambda *_: False)


def a_call_is_let_through_while_stopping(patch: Patch) -> None:
    def make_wait(original: Any) -> Any:
        async def wait_running(sender: CallSender, call: Any) -> None:
            if sender._record.life.phase is not Phase.STOPPING or sender._outbox is None:
                await original(sender, call)

        return wait_running

    def make_write(original: Any) -> Any:
        def write(sender: CallSender, call: Any, *about: Any) -> Any:
            if sender._record.life.phase is not Phase.STOPPING:
                return original(sender, call, *about)
            return encode_call(sender._last_id + 1, call.method, 1.0, *about, 10_000)

        return write

    replace(patch, CallSender, "_wait_running", make_wait)
    replace(patch, CallSender, "_write", make_write)


def a_call_of_a_stopping_process_waits_for_its_end(patch: Patch) -> None:
    async def refuse(sender: CallSender, call: Any) -> None:
        await sender._ended.wait()
        raise lost_error(sender._record, call.method, handed_over=False)

    patch.setattr(CallSender, "_refuse", refuse)


def calls_that_wait_for_room_are_not_refused_by_a_stop(patch: Patch) -> None:
    patch.setattr(CallSender, "follow", lambda _: None)


def a_call_before_ready_is_refused(patch: Patch) -> None:
    async def wait_running(sender: CallSender, call: Any) -> None:
        raise lost_error(sender._record, call.method, handed_over=False)

    patch.setattr(CallSender, "_wait_running", wait_running)


def whatever_is_lost_was_handed_over(patch: Patch) -> None:
    def lost(record: ProcessRecord, method: str, *, handed_over: bool) -> ProcessLostError:
        return lost_error(record, method, handed_over=True)

    patch.setattr(_calls, "lost_error", lost)
    patch.setattr(_call_sender, "lost_error", lost)


def what_has_never_left_is_lost_as_handed_over(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def end(sender: CallSender) -> Any:
            if sender._outbox is not None:
                sender._last_id += sender._outbox.dropped
            return original(sender)

        return end

    replace(patch, CallSender, "end", make)


def calls_whose_callers_have_gone_on_count_as_ended(patch: Patch) -> None:
    def make(original: Any) -> Any:
        async def wait_idle(calls: ProcessCalls) -> None:
            if not all(call.is_given_up for call in calls._pending.values()):
                await original(calls)

        return wait_idle

    replace(patch, ProcessCalls, "wait_idle", make)


def the_deadline_of_an_outer_scope_does_not_travel(patch: Patch) -> None:
    def write(sender: CallSender, call: Any, *about: Any) -> bytes:
        if sender._record.life.phase is not Phase.RUNNING:
            raise trio.BrokenResourceError
        return encode_call(sender._last_id + 1, call.method, call.timeout, *about, 10_000)

    patch.setattr(CallSender, "_write", write)


def what_was_answered_before_an_exit_is_lost(patch: Patch) -> None:
    patch.setattr(SupervisedProcess, "take_in_calls", lambda _: None)


def a_handler_that_was_cancelled_has_failed_at_once(patch: Patch) -> None:
    patch.setattr(_call_intake, "_CAUSE_SECONDS", 0.0)


def late_answers_are_not_counted(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def finish(intake: CallIntake, call: Any, frame: Any) -> None:
            before = intake.late
            original(intake, call, frame)
            intake.late = before

        return finish

    replace(patch, CallIntake, "_finish", make)


def a_closed_calls_lane_is_no_breach(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def breach(intake: CallIntake, text: str) -> None:
            if "closed" not in text:
                original(intake, text)

        return breach

    replace(patch, CallIntake, "_breach", make)


def a_stream_whose_handler_has_given_up_is_watched(patch: Patch) -> None:
    """It was cancelled there by its deadline, and its reader here is away."""

    def make(original: Any) -> Any:
        def find_cause(intake: CallIntake, stream: Any, failure: Any) -> None:
            original(intake, stream, failure)
            if stream.kills and isinstance(stream, CallStream):
                intake._watch.begin(stream, stream.deadline)

        return find_cause

    replace(patch, CallIntake, "_find_cause", make)


def a_stream_whose_reader_is_away_is_not_watched(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def begin(watch: OverrunWatch, call: Any, since: float) -> None:
            if since <= trio.current_time():
                original(watch, call, since)

        return begin

    replace(patch, OverrunWatch, "begin", make)


def a_stream_gets_no_more_credit(patch: Patch) -> None:
    patch.setattr(CallStream, "_give_credit", lambda *_: None)


def items_beyond_the_credit_are_taken(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def put(stream: CallStream, item: Any) -> bool:
            stream._credit = max(stream._credit, 1)
            return bool(original(stream, item))

        return put

    replace(patch, ItemChannel, "_put", make)


def items_before_an_error_are_dropped(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def finish(stream: CallStream, outcome: Any) -> None:
            if not isinstance(outcome, StreamEnd):
                stream._items.clear()
            original(stream, outcome)

        return finish

    replace(patch, CallStream, "finish", make)


def items_change_places(patch: Patch) -> None:
    def make(original: Any) -> Any:
        def put(stream: CallStream, item: Any) -> bool:
            is_put = original(stream, item)
            stream._items.reverse()
            return bool(is_put)

        return put

    replace(patch, ItemChannel, "_put", make)


def a_stream_that_is_left_is_not_cancelled(patch: Patch) -> None:
    def close(stream: CallStream) -> None:
        stream._is_closed = True
        stream._items.clear()

    patch.setattr(CallStream, "close", close)


FAULTS = (
    an_answer_is_dropped,
    a_call_may_be_answered_twice,
    a_cancel_is_not_sent,
    a_call_is_cancelled_although_its_answer_has_come,
    an_overrun_kills_at_once,
    an_overrun_never_kills,
    a_cancelled_call_has_the_whole_grace_period_of_a_stop,
    a_call_that_waits_behind_others_is_judged,
    a_call_that_has_waited_behind_others_is_not_judged,
    a_handler_that_gives_up_in_time_is_killed,
    a_call_is_let_through_while_stopping,
    a_call_of_a_stopping_process_waits_for_its_end,
    calls_that_wait_for_room_are_not_refused_by_a_stop,
    a_call_before_ready_is_refused,
    whatever_is_lost_was_handed_over,
    what_has_never_left_is_lost_as_handed_over,
    calls_whose_callers_have_gone_on_count_as_ended,
    the_deadline_of_an_outer_scope_does_not_travel,
    what_was_answered_before_an_exit_is_lost,
    a_handler_that_was_cancelled_has_failed_at_once,
    late_answers_are_not_counted,
    a_closed_calls_lane_is_no_breach,
    a_stream_whose_handler_has_given_up_is_watched,
    a_stream_whose_reader_is_away_is_not_watched,
    a_stream_gets_no_more_credit,
    items_beyond_the_credit_are_taken,
    items_before_an_error_are_dropped,
    items_change_places,
    a_stream_that_is_left_is_not_cancelled,
)


@pytest.mark.quick(1)
@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_of_calls_is_caught(plant: Callable[[Patch], None]) -> None:
    assert_is_caught(plant)
