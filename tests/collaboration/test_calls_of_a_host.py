"""The host's side of calls, over a child that a test drives by hand: it can answer late, twice, wrongly or never."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import spindle_trio as spindle
from spindle_trio import Limits, ProcessHandle
from spindle_trio._errors import (
    CallError,
    CallFailedError,
    CallTimeoutError,
    PayloadError,
    ProcessLostError,
    UnknownMethodError,
)
from spindle_trio._host._worker_scope import WorkerScope
from spindle_trio._protocol._call_frames import encode_answer
from spindle_trio._supervision import _call_sender
from spindle_trio.abc import ExitStatus, LaunchedProcess
from spindle_trio.testing import MemoryLauncher, ScriptedChild
from spindle_trio.testing._memory_lane import MemoryLane
from support.scripted_calls import Called, running


async def test_a_call_is_answered_by_the_value_of_its_handler(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = stage.start("square", {"n": 3})
        call = await stage.child.calls.next()
        assert (call.method, call.payload, call.seconds, call.window) == ("square", {"n": 3}, None, None)
        stage.child.calls.answer(call.call_id, 9)
        assert await called.outcome() == 9
        assert stage.counts.pending == 0


async def test_ids_grow_and_answers_may_come_in_any_order(autojump_clock: MockClock) -> None:
    async with running() as stage:
        first, second = stage.start("a"), stage.start("b")
        calls = [await stage.child.calls.next(), await stage.child.calls.next()]
        assert [call.call_id for call in calls] == [1, 2]
        by_method = {call.method: call.call_id for call in calls}
        stage.child.calls.answer(by_method["b"], "B")
        assert await second.outcome() == "B"
        assert not first.is_over.is_set()
        stage.child.calls.answer(by_method["a"], "A")
        assert await first.outcome() == "A"


async def test_what_a_handler_raises_is_raised_at_the_caller(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = stage.start("square")
        call = await stage.child.calls.next()
        stage.child.calls.fail(call.call_id, "ValueError", "no such number", "Traceback: …")
        with pytest.raises(CallFailedError, match=r"'square' failed in .* ValueError: no such number") as caught:
            await called.outcome()
        error = caught.value
        assert (error.error_type, error.text, error.traceback) == ("ValueError", "no such number", "Traceback: …")


async def test_an_unknown_method_names_the_known_ones(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = stage.start("cube")
        call = await stage.child.calls.next()
        stage.child.calls.refuse(call.call_id, "index", "square")
        with pytest.raises(UnknownMethodError, match="'cube'; it has 'index', 'square'") as caught:
            await called.outcome()
        assert caught.value.known == ("index", "square")


async def test_a_process_without_a_handler_takes_no_calls_until_it_says_so(
    autojump_clock: MockClock,
) -> None:
    async with running(calls=False) as stage:
        with pytest.raises(
            UnknownMethodError, match=r"register a handler with process\.on_call; `calls` is read only"
        ) as caught:
            await stage.handle.call("square")
        assert caught.value.known == ()
        stage.child.take_calls()
        await wait_all_tasks_blocked()
        called = stage.start()
        stage.child.calls.answer((await stage.child.calls.next()).call_id, 1)
        assert await called.outcome() == 1


async def test_a_child_of_protocol_1_gets_no_calls(autojump_clock: MockClock) -> None:
    async with running(calls=False, protocol=1) as stage:
        with pytest.raises(UnknownMethodError, match="protocol 1"):
            await stage.handle.call("square")


async def test_a_child_of_protocol_1_that_takes_calls_breaks_the_protocol(
    autojump_clock: MockClock,
) -> None:
    async with running(calls=False, protocol=1) as stage:
        stage.child.take_calls()
        info = await stage.handle.wait_ended()
        assert info.state == "failed"
        assert "takes calls, and has not said ready in protocol 2" in (info.error or "")


class OfProtocol1(LaunchedProcess):
    """What a launcher that was written for protocol 1 has to define."""

    def last_heartbeat(self) -> float:
        raise NotImplementedError

    def request_stop(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def has_exited(self) -> bool:
        raise NotImplementedError

    async def wait(self) -> ExitStatus:
        raise NotImplementedError


def test_a_launcher_of_protocol_1_has_no_lane_for_calls() -> None:
    assert OfProtocol1().calls is None


# ---- deadlines and cancellation


async def test_a_timeout_travels_as_remaining_time_and_ends_the_call_exactly(autojump_clock: MockClock) -> None:
    async with running() as stage:
        began = trio.current_time()
        called = stage.start(timeout=2)
        call = await stage.child.calls.next()
        assert call.seconds == 2
        with pytest.raises(CallTimeoutError, match="within 2 s") as caught:
            await called.outcome()
        assert isinstance(caught.value, TimeoutError)
        assert called.ended_at == began + 2
        await stage.child.calls.wait_cancelled(call.call_id)
        assert stage.counts.pending == 1
        assert stage.handle.statistics().calls == 1
        stage.child.calls.answer(call.call_id, "late")
        await wait_all_tasks_blocked()
        assert (stage.counts.pending, stage.counts.late) == (0, 1)
        assert (stage.handle.statistics().calls, stage.handle.statistics().late_answers) == (0, 1)
        assert stage.handle.state == "running"


@pytest.mark.parametrize(("outer", "own"), [(1, math.inf), (1, 5), (5, 1)])
async def test_the_earlier_of_timeout_and_scopes_counts(outer: float, own: float, autojump_clock: MockClock) -> None:
    async with running() as stage:
        began = trio.current_time()
        outcome = "none"
        with trio.move_on_after(outer) as scope:
            try:
                await stage.handle.call("square", timeout=own)
            except CallTimeoutError:
                outcome = "timeout"
        assert trio.current_time() == began + min(outer, own)
        assert (outcome, scope.cancelled_caught) == (("none", True) if outer < own else ("timeout", False))
        assert (await stage.child.calls.next()).seconds == 1
        await stage.child.calls.wait_cancelled(1)


async def test_cancelling_the_caller_cancels_the_handler_and_goes_on_at_once(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = stage.start()
        call = await stage.child.calls.next()
        called.scope.cancel()
        await called.is_over.wait()
        await stage.child.calls.wait_cancelled(call.call_id)
        stage.child.calls.say_cancelled(call.call_id)
        await wait_all_tasks_blocked()
        assert (stage.counts.pending, stage.counts.late) == (0, 0)
        assert stage.handle.state == "running"


async def test_a_call_in_a_cancelled_scope_sends_nothing(autojump_clock: MockClock) -> None:
    async with running() as stage:
        with trio.CancelScope() as scope:
            scope.cancel()
            await stage.handle.call("square")
        assert scope.cancelled_caught
        assert stage.counts.pending == 0


async def test_an_answer_that_has_arrived_beats_the_deadline(autojump_clock: MockClock) -> None:
    async with running() as stage:
        with trio.CancelScope() as scope:

            async def answer() -> None:
                call = await stage.child.calls.next()
                autojump_clock.autojump_threshold = math.inf
                stage.child.calls.answer(call.call_id, "in time")
                autojump_clock.jump(5)  # this program stands still, and finds the answer when it is late
                autojump_clock.autojump_threshold = 0

            stage.nursery.start_soon(answer)
            assert await stage.handle.call("square", timeout=2) == "in time"
        assert not scope.cancelled_caught


async def test_a_handler_that_was_cancelled_by_its_own_clock_has_timed_out(
    autojump_clock: MockClock,
) -> None:
    async with running() as stage:
        began = trio.current_time()
        called = stage.start(timeout=2)
        call = await stage.child.calls.next()
        await trio.sleep(1.9)
        stage.child.calls.say_cancelled(call.call_id)
        with pytest.raises(CallTimeoutError):
            await called.outcome()
        assert called.ended_at == began + 2


async def test_a_handler_that_was_cancelled_though_nobody_asked_has_failed(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = stage.start()
        call = await stage.child.calls.next()
        stage.child.calls.say_cancelled(call.call_id)
        with pytest.raises(CallFailedError, match="had not asked") as caught:
            await called.outcome()
        assert caught.value.error_type == "Cancelled"


async def test_a_handler_that_was_cancelled_since_its_process_ends_is_lost(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = stage.start()
        call = await stage.child.calls.next()
        stage.child.calls.say_cancelled(call.call_id)
        stage.child.complete()
        await wait_all_tasks_blocked()
        stage.child.exit()
        with pytest.raises(ProcessLostError):
            await called.outcome()


# ---- the end


async def test_at_the_end_of_its_process_a_call_is_lost_and_says_so(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = stage.start()
        await stage.child.calls.next()
        stage.child.exit(3)
        with pytest.raises(ProcessLostError, match=r"exited with code 3.*'square' may have begun") as caught:
            await called.outcome()
        assert caught.value.handed_over
        assert caught.value.info.state == "failed"
        assert caught.value.post_mortem is not None


async def test_an_answer_that_was_left_behind_counts_and_a_loss_follows_the_end(
    autojump_clock: MockClock,
) -> None:
    async with running() as stage:
        answered, lost = stage.start("a"), stage.start("b")
        calls = {call.method: call.call_id for call in [await stage.child.calls.next(), await stage.child.calls.next()]}
        lane = stage.counts._intake._lane
        assert isinstance(lane, MemoryLane)
        lane._readers = None  # as if the reading task did not run
        stage.child.calls.answer(calls["a"], "last")
        stage.child.exit()
        assert await answered.outcome() == "last"
        with pytest.raises(ProcessLostError) as caught:
            await lost.outcome()
        assert caught.value.info.state.is_terminal
        assert stage.handle.state.is_terminal


async def test_a_process_that_is_stopping_finishes_its_calls_and_takes_no_others(
    autojump_clock: MockClock,
) -> None:
    async with running() as stage:
        called = stage.start()
        call = await stage.child.calls.next()
        stage.nursery.start_soon(stage.handle.stop)
        await stage.child.stop_requested()
        with pytest.raises(ProcessLostError, match="is stopping and takes no calls") as caught:
            await stage.handle.call("square")
        assert not caught.value.handed_over
        stage.child.calls.answer(call.call_id, "done")
        assert await called.outcome() == "done"


async def test_a_process_that_has_ended_takes_no_calls(autojump_clock: MockClock) -> None:
    async with running() as stage:
        stage.child.exit()
        await stage.handle.wait_ended()
        with pytest.raises(ProcessLostError, match="was not sent") as caught:
            await stage.handle.call("square")
        assert not caught.value.handed_over


async def test_a_call_to_a_starting_process_waits_until_it_is_ready(autojump_clock: MockClock) -> None:
    child = ScriptedChild()
    async with (
        spindle.open_host(MemoryLauncher({"child": child})) as host,
        host.open_worker("test", user_id="ada") as worker,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(worker.backend_processes.spawn, "child")
        await child.started()
        scope = worker._port
        assert isinstance(scope, WorkerScope)
        (process,) = scope
        called = Called()
        handle = ProcessHandle(scope, process)
        nursery.start_soon(called.run, lambda: handle.call("square", timeout=3))
        await trio.sleep(1)
        child.ready(protocol=2, calls=True)
        call = await child.calls.next()
        assert call.seconds == 2
        child.calls.answer(call.call_id, 9)
        assert await called.outcome() == 9
        child.exit()


# ---- room


SMALL = Limits(outbox_bytes=100)


async def test_calls_wait_for_room_and_one_that_is_cancelled_there_is_never_sent(autojump_clock: MockClock) -> None:
    async with running(limits=SMALL) as stage:
        called = [stage.start(f"call-{number}", "x" * 60) for number in range(40)]
        await wait_all_tasks_blocked()
        sent = stage.counts.pending
        assert 0 < sent < 40
        for one in called:
            one.scope.cancel()
        await wait_all_tasks_blocked()
        assert stage.counts.pending == sent
        last = stage.start("last")
        for _ in range(sent):
            stage.child.calls.say_cancelled((await stage.child.calls.next()).call_id)
        call = await stage.child.calls.next()
        assert call.method == "last"
        stage.child.calls.answer(call.call_id, "yes")
        assert await last.outcome() == "yes"


async def test_calls_that_wait_for_room_are_lost_at_the_end_and_were_not_handed_over(autojump_clock: MockClock) -> None:
    async with running(limits=SMALL) as stage:
        called = [stage.start(f"call-{number}", "x" * 60) for number in range(40)]
        await wait_all_tasks_blocked()
        first = (await stage.child.calls.next()).method
        await wait_all_tasks_blocked()
        stage.child.exit()
        handed_over = []
        for number, one in enumerate(called):
            with pytest.raises(ProcessLostError) as caught:
                await one.outcome()
            if caught.value.handed_over:
                handed_over.append(f"call-{number}")
        assert first in handed_over
        assert 16 <= len(handed_over) < 40


async def test_calls_in_the_outbox_at_the_end_were_not_handed_over(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = [stage.start(f"call-{number}") for number in range(40)]
        await wait_all_tasks_blocked()
        assert stage.counts.pending == 40  # sixteen with the system, one or more on the way, and others that wait
        for _ in range(3):
            called.append(stage.start("last"))
            await wait_all_tasks_blocked()
        stage.child.exit()
        handed_over = []
        for one in called:
            with pytest.raises(ProcessLostError) as caught:
                await one.outcome()
            handed_over.append(caught.value.handed_over)
        assert 16 <= handed_over.count(True) <= 40
        assert handed_over[-3:] == [False] * 3


async def test_calls_that_wait_for_room_are_refused_once_the_process_is_stopping(autojump_clock: MockClock) -> None:
    async with running(limits=SMALL) as stage:
        called = [stage.start(f"call-{number}", "x" * 60) for number in range(40)]
        await wait_all_tasks_blocked()
        sent = stage.counts.pending
        stage.nursery.start_soon(stage.handle.stop)
        await stage.child.stop_requested()
        await wait_all_tasks_blocked()
        over = [one for one in called if one.is_over.is_set()]
        assert len(over) == 40 - sent
        assert all(isinstance(one.error, ProcessLostError) and not one.error.handed_over for one in over)


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_thousands_of_calls_at_once_are_all_answered(autojump_clock: MockClock, count: int) -> None:
    async with running() as stage:
        called = [stage.start("n", number) for number in range(count)]
        for _ in range(count):
            call = await stage.child.calls.next()
            await stage.child.calls.send_all_raw([encode_answer(call.call_id, call.payload, 100)])
        for number, one in enumerate(called):
            assert await one.outcome() == number
        assert stage.counts.pending == 0


async def test_a_call_beyond_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    monkeypatch.setattr(_call_sender, "MOST_PENDING", 3)
    async with running() as stage:
        for _ in range(3):
            stage.start()
        await wait_all_tasks_blocked()
        with pytest.raises(CallError, match="has not ended 3 calls"):
            await stage.handle.call("square")


async def test_calls_that_wait_for_room_are_within_the_bound(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(_call_sender, "MOST_PENDING", 20)
    async with running(limits=SMALL) as stage:
        called = [stage.start("square", "x" * 60) for _ in range(40)]
        await wait_all_tasks_blocked()
        assert stage.counts.pending < 20  # all others wait for room
        for _ in range(20):
            await stage.child.calls.next()
        await wait_all_tasks_blocked()
        assert stage.counts.pending == 20
        over = [one for one in called if one.is_over.is_set()]
        assert len(over) == 20
        assert all("has not ended 20 calls" in str(one.error) for one in over)


# ---- breaches


@pytest.mark.parametrize(
    ("says", "text"),
    [
        (lambda calls: [calls.answer(1), calls.answer(1)], "an answer for call 1, which has ended or never began"),
        (lambda calls: calls.answer(3), "an answer for call 3, which has ended or never began"),
        (lambda calls: calls.fail(7, "E", "no"), "a failure for call 7, which has ended or never began"),
        (lambda calls: calls.item(1, "x"), "an item for call 1, which is no stream"),
        (lambda calls: calls.end(1), "an end for call 1, which is no stream"),
        (lambda calls: calls.send_raw(b"\x01[1]"), "unknown kind"),
        (lambda calls: calls.send_raw(b"\x02[1,NaN]"), "not JSON-safe"),
        (lambda calls: calls.send_raw(b""), "unknown kind"),
        (lambda calls: calls.send_raw(b"\x05raw"), "bytes that no frame has announced on the calls lane"),
        (lambda calls: (calls.send_raw(b'\x02$[1,{"$raw":3}]'), calls.send_raw(b"\x051234")), "1 bytes more"),
        (lambda calls: (calls.send_raw(b'\x02$[1,{"$raw":3}]'), calls.answer(1)), "another frame where 3 bytes"),
        (lambda calls: (calls.send_raw(b'\x02$[1,{"$raw":3}]'), calls.send_raw(b"\x05")), "without any"),
        (lambda calls: calls.send_raw(b'\x02$[1,{"$raw":-1}]'), "not a number of bytes"),
        (lambda calls: calls.send_raw(b'\x02$[1,{"$raw":1.0}]'), "not a number of bytes"),
        (lambda calls: calls.send_raw(b'\x02$[1,{"$raw":268435457}]'), "announces 268435457 bytes"),
        (lambda calls: calls.close_lane(), "closed its calls lane"),
    ],
)
async def test_a_process_that_breaks_the_rules_of_calls_is_ended_as_failed(
    says: Callable[[object], object], text: str, autojump_clock: MockClock
) -> None:
    async with running() as stage:
        called, other = stage.start("a"), stage.start("b", timeout=1_000)
        await stage.child.calls.next()
        says(stage.child.calls)
        info = await stage.handle.wait_ended()
        assert (info.state, stage.child.was_killed) == ("failed", True)
        assert (info.error or "").startswith("broke the protocol: ")
        assert text in (info.error or "")
        await called.is_over.wait()
        await other.is_over.wait()
        lost = [one for one in (called, other) if one.error is not None]
        assert lost
        assert all(isinstance(one.error, ProcessLostError) for one in lost)


# ---- what is refused before anything is sent


async def test_bad_arguments_are_refused_and_lose_nothing(autojump_clock: MockClock) -> None:
    async with running(limits=Limits(depth=2)) as stage:
        handle = stage.handle
        with pytest.raises(TypeError, match="a plain str, not 7"):
            await handle.call(7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not empty"):
            await handle.call("")
        with pytest.raises(PayloadError, match="10000000 bytes, more than 1024"):
            await handle.call("m" * 10_000_000)
        with pytest.raises(PayloadError, match="surrogate"):
            await handle.call("\ud800")
        with pytest.raises(TypeError, match="a plain str"):  # else the codec would refuse it, and not by its name
            await handle.call(type("Name", (str,), {})("square"))
        for timeout in (0, -1, math.nan, "1", True, None, 10**400):
            with pytest.raises(ValueError, match="timeout must be"):
                await handle.call("square", timeout=timeout)  # type: ignore[arg-type]
        for overrun in ("stay", None, True):
            with pytest.raises(ValueError, match="overrun must be"):
                await handle.call("square", overrun=overrun)  # type: ignore[arg-type]
        for window in (0, -1, 65_537, 1.0, True, None):
            with pytest.raises(ValueError, match="window must be"):
                handle.stream("square", window=window)  # type: ignore[arg-type]
        for payload in (object(), math.nan, [[[[]]]], {1: 2}, (1, 2)):
            with pytest.raises(PayloadError):
                await handle.call("square", payload)
        assert stage.counts.pending == 0
        called = stage.start("m" * 1024)
        call = await stage.child.calls.next()
        assert (call.call_id, len(call.method)) == (1, 1024)
        stage.child.calls.answer(1)
        await called.outcome()


async def test_a_payload_that_is_too_long_for_a_frame_is_refused(autojump_clock: MockClock) -> None:
    async with running(limits=Limits(frame_bytes=1000)) as stage:
        with pytest.raises(PayloadError):
            await stage.handle.call("square", "x" * 1000)
        assert stage.counts.pending == 0


async def test_another_thread_may_not_call(autojump_clock: MockClock) -> None:
    async with running() as stage:

        async def elsewhere() -> None:
            with pytest.raises(RuntimeError, match=r"wrong thread; .* type: trio\.from_thread\.run\(….call, …\)"):
                await stage.handle.call("square")
            with pytest.raises(RuntimeError, match=r"wrong thread; .* type: trio\.from_thread\.run\(that_function\)"):
                stage.handle.stream("square")

        await trio.to_thread.run_sync(trio.run, elsewhere)


async def test_a_closed_worker_takes_no_calls(autojump_clock: MockClock) -> None:
    async with running() as stage:
        handle = stage.handle
    with pytest.raises(trio.ClosedResourceError):
        await handle.call("square")
    with pytest.raises(trio.ClosedResourceError):
        async with handle.stream("square"):
            pass


async def test_every_error_of_a_call_names_its_process_entry_and_method(autojump_clock: MockClock) -> None:
    async with running() as stage:
        about = ("square", stage.handle.process_id, stage.handle.entry)
        made: list[Called] = []
        for timeout in (9, 9, 1, 9):
            made.append(stage.start(timeout=timeout))
            await wait_all_tasks_blocked()  # so that they are made in this order
        failed, refused, late, lost = made
        for number, called in enumerate((failed, refused), 1):
            await stage.child.calls.next()
            if called is failed:
                stage.child.calls.fail(number, "ValueError", "no", None)
            else:
                stage.child.calls.refuse(number, "a")
        await late.is_over.wait()
        stage.child.exit(3)
        await lost.is_over.wait()
        for called in (failed, refused, late, lost):
            assert isinstance(called.error, CallError)
            assert (called.error.method, called.error.process_id, called.error.entry) == about


async def test_a_timeout_tells_of_a_call_that_a_stop_kept_from_beginning(autojump_clock: MockClock) -> None:
    """It waited behind another one when the process was asked to stop; that one has ended, and nothing begins it."""
    async with running(concurrency=1) as stage, trio.open_nursery() as nursery:
        stage.start("long")
        await wait_all_tasks_blocked()
        late = stage.start("square", timeout=1)
        await wait_all_tasks_blocked()
        nursery.start_soon(stage.handle.stop)
        await wait_all_tasks_blocked()
        stage.child.calls.answer(1)
        await late.is_over.wait()
        assert isinstance(late.error, CallTimeoutError)
        assert str(late.error).endswith("; it had not begun, since the process was asked to stop")
        stage.child.exit(0)


async def test_a_timeout_says_what_stood_before_a_call_that_had_not_begun(autojump_clock: MockClock) -> None:
    async with running(concurrency=2) as stage:
        for method in ("long", "longer", "third"):
            stage.start(method)
            await wait_all_tasks_blocked()
        with pytest.raises(CallTimeoutError, match=r"; it had not begun: 'long' \(call 1\) and 2 more came before"):
            await stage.handle.call("square", timeout=1)
        stage.child.calls.answer(2)
        stage.child.calls.answer(3)
        stage.child.calls.say_cancelled(4)
        with pytest.raises(CallTimeoutError, match=r"and was cancelled$"):
            await stage.handle.call("square", timeout=1)


# ---- overrun


async def test_a_handler_that_goes_on_after_its_cancel_has_its_process_killed(
    autojump_clock: MockClock,
) -> None:
    async with running(cancel_grace=0.5) as stage:
        began = trio.current_time()
        called = stage.start("hang", timeout=2, overrun="kill")
        await stage.child.calls.next()
        with pytest.raises(CallTimeoutError):
            await called.outcome()
        info = await stage.handle.wait_ended()
        assert trio.current_time() == began + 2.5
        assert (info.state, info.exit_reason) == ("timed_out", "timed_out")
        assert info.error == "its handler of 'hang' went on for 0.5 s after call 1 was cancelled"


async def test_a_handler_that_gives_up_within_the_grace_is_left_alone(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage:
        called = stage.start("hang", timeout=2, overrun="kill")
        call = await stage.child.calls.next()
        await called.is_over.wait()
        await trio.sleep(0.4)
        stage.child.calls.say_cancelled(call.call_id)
        await trio.sleep(5)
        assert stage.handle.state == "running"


async def test_a_stream_that_was_cancelled_by_its_own_clock_is_watched_no_longer(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage, stage.handle.stream("hang", timeout=2, overrun="kill") as items:
        call = await stage.child.calls.next()
        await trio.sleep(1.9)
        stage.child.calls.say_cancelled(call.call_id)
        with pytest.raises(CallTimeoutError):
            await items.receive()
        await stage.handle.wait_idle()
        await trio.sleep(5)
        assert stage.handle.state == "running"


async def test_a_process_whose_call_may_overrun_is_left_alone(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = stage.start("hang", timeout=2)
        await stage.child.calls.next()
        await called.is_over.wait()
        await trio.sleep(100)
        assert stage.handle.state == "running"


async def test_each_cancelled_call_has_its_own_time(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage:
        began = trio.current_time()
        first, second = stage.start("a", timeout=1, overrun="kill"), stage.start("b", timeout=1.2, overrun="kill")
        calls = {call.method: call.call_id for call in [await stage.child.calls.next(), await stage.child.calls.next()]}
        await second.is_over.wait()
        stage.child.calls.say_cancelled(calls["a"])
        info = await stage.handle.wait_ended()
        assert trio.current_time() == pytest.approx(began + 1.7)
        assert "'b'" in (info.error or "")
        assert isinstance(first.error, CallTimeoutError)


async def test_a_call_that_was_cancelled_while_it_waited_behind_others_ends_no_process(
    autojump_clock: MockClock,
) -> None:
    async with running(cancel_grace=0.5, concurrency=2) as stage:
        first = stage.start("long")
        await wait_all_tasks_blocked()
        stage.start("long")
        await wait_all_tasks_blocked()
        behind = stage.start("short", timeout=1, overrun="kill")
        with pytest.raises(CallTimeoutError):
            await behind.outcome()
        await trio.sleep(10)
        assert stage.handle.state == "running"
        stage.child.calls.answer(1, "done")
        assert await first.outcome() == "done"
        await trio.sleep(0.4)
        stage.child.calls.say_cancelled(3)
        await trio.sleep(10)
        assert stage.handle.state == "running"
        assert stage.counts.pending == 1


async def test_the_grace_of_a_call_that_waited_begins_when_it_could_have_begun(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5, concurrency=1) as stage:
        stage.start("long")
        await wait_all_tasks_blocked()
        stage.start("hang", timeout=1, overrun="kill")
        await trio.sleep(3)
        began = trio.current_time()
        stage.child.calls.answer(1)
        info = await stage.handle.wait_ended()
        assert trio.current_time() == began + 0.5
        assert info.error == "its handler of 'hang' went on for 0.5 s after call 2 was cancelled"


async def test_a_stream_behind_a_call_has_its_own_time_and_the_grace_when_it_begins(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5, concurrency=1) as stage:
        stage.start("long")
        await wait_all_tasks_blocked()
        began = trio.current_time()
        async with stage.handle.stream("hang", timeout=2, overrun="kill"):
            await trio.sleep(1)
            stage.child.calls.answer(1)  # before its time is over
            await stage.handle.wait_ended()
            assert trio.current_time() == began + 2.5


@pytest.mark.parametrize("concurrency", [2, None])
async def test_a_process_that_serves_more_at_a_time_from_now_on_may_have_begun_what_waited(
    autojump_clock: MockClock, concurrency: int | None
) -> None:
    async with running(cancel_grace=0.5, concurrency=1) as stage:
        stage.start("long")
        await wait_all_tasks_blocked()
        stage.start("hang", timeout=1, overrun="kill")
        await trio.sleep(3)
        began = trio.current_time()
        stage.child.take_calls(concurrency=concurrency)
        await stage.handle.wait_ended()
        assert trio.current_time() == began + 0.5


async def test_a_call_that_has_begun_stays_so_when_fewer_are_served_at_a_time(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5, concurrency=2) as stage:
        stage.start("long")
        await wait_all_tasks_blocked()
        stage.start("hang", timeout=1, overrun="kill")
        await wait_all_tasks_blocked()
        began = trio.current_time()
        stage.child.take_calls(concurrency=1)
        await stage.handle.wait_ended()
        assert trio.current_time() == began + 1.5


async def test_a_host_that_is_late_takes_in_what_has_come_before_it_kills(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage:
        called = stage.start("hang", timeout=2, overrun="kill")
        call = await stage.child.calls.next()
        await called.is_over.wait()
        await trio.sleep(0.4)
        autojump_clock.autojump_threshold = math.inf
        stage.child.calls.say_cancelled(call.call_id)
        autojump_clock.jump(5)  # this program stands still
        autojump_clock.autojump_threshold = 0
        await trio.sleep(10)
        assert stage.handle.state == "running"


async def test_an_answer_that_was_taken_in_by_nobody_saves_its_process(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage:
        called = stage.start("hang", timeout=2, overrun="kill")
        call = await stage.child.calls.next()
        await called.is_over.wait()
        lane = stage.counts._intake._lane
        assert isinstance(lane, MemoryLane)
        lane._readers = None  # as if the reading task did not run
        stage.child.calls.say_cancelled(call.call_id)
        await trio.sleep(10)
        assert stage.handle.state == "running"


async def test_a_process_that_has_said_its_last_word_is_not_judged_by_an_overrun(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage:
        called = stage.start("hang", timeout=2, overrun="kill")
        await stage.child.calls.next()
        await called.is_over.wait()
        await trio.sleep(0.4)
        stage.child.complete("result")
        await trio.sleep(1)
        stage.child.exit()
        assert (await stage.handle.wait_ended()).state == "completed"


async def test_a_stop_gives_a_cancelled_call_no_more_time_than_it_had(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage:
        began = trio.current_time()
        called = stage.start("hang", timeout=2, overrun="kill")
        await stage.child.calls.next()
        await called.is_over.wait()
        await trio.sleep(0.2)
        await stage.handle.stop()
        assert trio.current_time() == began + 2.5
        info = stage.handle.info
        assert (info.state, info.exit_reason) == ("stopped", "stopped")
        assert info.error == "its handler of 'hang' went on for 0.5 s after call 1 was cancelled"


async def test_a_call_that_is_cancelled_while_its_process_stops_is_watched_too(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5) as stage:
        called = stage.start("hang", overrun="kill")
        await stage.child.calls.next()
        stage.nursery.start_soon(stage.handle.stop)
        await trio.sleep(1)
        began = trio.current_time()
        called.scope.cancel()
        assert (await stage.handle.wait_ended()).state == "stopped"
        assert trio.current_time() == began + 0.5


async def test_a_stopping_process_begins_none_of_the_calls_that_waited(autojump_clock: MockClock) -> None:
    async with running(cancel_grace=0.5, concurrency=1, grace_period=5) as stage:
        stage.start("long")
        await wait_all_tasks_blocked()
        stage.start("behind", timeout=1, overrun="kill")
        last = stage.start("last", overrun="kill")
        await trio.sleep(2)
        began = trio.current_time()
        stage.nursery.start_soon(stage.handle.stop)
        await wait_all_tasks_blocked()
        stage.child.calls.answer(1)
        await wait_all_tasks_blocked()
        last.scope.cancel()
        info = await stage.handle.wait_ended()
        assert trio.current_time() == began + 5
        assert "did not end within 5 s of the stop" in (info.error or "")


# ---- what waits for a process to be idle


async def test_a_process_is_idle_once_every_call_has_ended_also_those_given_up(autojump_clock: MockClock) -> None:
    async with running() as stage:
        await stage.counts.wait_idle()
        called = stage.start(timeout=1)
        call = await stage.child.calls.next()
        await called.is_over.wait()
        idle = Called()
        stage.nursery.start_soon(idle.run, stage.counts.wait_idle)
        await trio.sleep(1)
        assert not idle.is_over.is_set()
        stage.child.calls.say_cancelled(call.call_id)
        await idle.outcome()


async def test_a_process_that_ends_is_idle(autojump_clock: MockClock) -> None:
    async with running() as stage:
        stage.start()
        await stage.child.calls.next()
        idle = Called()
        stage.nursery.start_soon(idle.run, stage.counts.wait_idle)
        await wait_all_tasks_blocked()
        stage.child.exit()
        await idle.outcome()


async def test_a_process_is_idle_when_it_breaks_the_rules_after_its_last_answer(autojump_clock: MockClock) -> None:
    """Both come together. It is not gone yet, since it resists its kill."""
    async with running() as stage:
        called = stage.start()
        call = await stage.child.calls.next()
        idle = Called()
        stage.nursery.start_soon(idle.run, stage.counts.wait_idle)
        await wait_all_tasks_blocked()
        stage.child.resist_kill()
        stage.child.calls.answer(call.call_id)
        stage.child.calls.answer(call.call_id)
        await idle.outcome()
        assert (await called.outcome(), stage.handle.state) == (None, "running")


def test_a_host_that_makes_no_call_loads_nothing_for_calls() -> None:
    code = """
import sys
import trio
from spindle_trio import open_host
from spindle_trio.testing import MemoryLauncher


async def entry(process):
    process.ready()
    await process.wait_stop()


async def main():
    async with open_host(MemoryLauncher({"entry": entry})) as host, host.open_worker("test", user_id="ada") as worker:
        handle = await worker.backend_processes.spawn("entry")
        handle.statistics()
        await handle.stop()


trio.run(main)
print(*(name for name in sys.modules if name.startswith("spindle_trio._supervision._")))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.rpartition(".")[2] for name in shown.stdout.split()}
    assert "_supervisor" in loaded
    assert not loaded & {"_calls", "_call_stream", "_call_errors", "_call_timeouts", "_pending_call", "_overruns"}


# ---- many calls with timeouts


async def test_each_of_many_calls_ends_exactly_at_its_own_time(autojump_clock: MockClock) -> None:
    async with running() as stage:
        timeouts = [1 + (7 * number) % 100 / 10 for number in range(100)]
        began = trio.current_time()
        waiting = [stage.start("hang", timeout=timeout) for timeout in timeouts]
        for called, timeout in zip(waiting, timeouts, strict=True):
            with pytest.raises(CallTimeoutError):
                await called.outcome()
            assert called.ended_at == began + timeout


async def test_deadlines_of_calls_that_have_ended_do_not_pile_up(autojump_clock: MockClock) -> None:
    async with running() as stage:

        async def answer() -> None:
            for _ in range(500):
                stage.child.calls.answer((await stage.child.calls.next()).call_id)

        stage.nursery.start_soon(answer)
        began = trio.current_time()
        for number in range(500):
            await stage.handle.call("square", timeout=100 + number % 7)
        timeouts = stage.counts._timeouts
        assert timeouts is not None
        assert len(timeouts._deadlines) < 100
        assert trio.current_time() == began
        for timeout in (1, 1000):  # sooner and later than all that was left behind
            began = trio.current_time()
            called = stage.start("hang", timeout=timeout)
            await called.is_over.wait()
            assert called.ended_at == began + timeout


async def test_an_answer_that_comes_with_the_end_of_the_time_counts(autojump_clock: MockClock) -> None:
    async with running() as stage:
        called = stage.start("square", timeout=1)
        call = await stage.child.calls.next()
        await wait_all_tasks_blocked()
        lane = stage.counts._intake._lane
        assert isinstance(lane, MemoryLane)
        lane._readers = None  # as if the reading task did not run
        stage.child.calls.answer(call.call_id, 9)
        assert await called.outcome() == 9
        assert stage.counts.late == 0


@pytest.mark.parametrize("timeout", [5, 1])
async def test_a_caller_is_cancelled_at_the_deadline_of_its_scope_unless_its_own_is_sooner(
    autojump_clock: MockClock, timeout: float
) -> None:
    async with running() as stage:
        began = trio.current_time()
        with trio.move_on_after(1) as scope:
            await stage.handle.call("hang", timeout=timeout)
        assert scope.cancelled_caught
        assert trio.current_time() == began + 1
