"""Calls and streams over the worker protocol: both ends, and between them a channel in memory."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import open_host
from spindle_trio._errors import (
    CallError,
    CallFailedError,
    CallTimeoutError,
    PayloadError,
    PeerProtocolError,
    ProcessAccessError,
    ProcessLostError,
    SpindleError,
    UnknownMethodError,
)
from spindle_trio._model import (
    MOST_WINDOW,
    CallFailure,
    CallRequest,
    ExitReason,
    LifecycleEvent,
    Limits,
    PostMortem,
    ProcessCall,
    ProcessCallCancel,
    ProcessCallCredit,
    ProcessCallIdle,
    ProcessCallItem,
    ProcessLifecycle,
    ProcessSpawn,
    ProcessState,
    Response,
)
from spindle_trio._process_handle import ProcessHandle
from spindle_trio._worker_protocol import StreamChannel, connect_worker, serve_worker
from spindle_trio.testing import MemoryLauncher, ScriptedChild
from spindle_trio.wire import to_json
from support.worker_protocol import AT, FakeCall, FakeHost, MemoryEnd, PlayedEnd, memory_ends

LOST = ProcessLostError(
    "gone",
    info=FakeHost.INFO,
    post_mortem=PostMortem("no heartbeat", exit_status="killed", stderr="last words"),
    handed_over=True,
)


# ---- the host's end: a peer says what the test says


class Peer(PlayedEnd):
    """The connecting end of a host that does only what the test says."""

    def __init__(self, host: FakeHost, end: MemoryEnd) -> None:
        super().__init__(end)
        self.host = host

    @property
    def calls(self) -> list[FakeCall]:
        return self.host.processes["p1"].calls.asked


@asynccontextmanager
async def served(buffer: float = math.inf) -> AsyncIterator[Peer]:
    """Serve a worker with one process, `p1`; leaving the block closes the connection and waits for the end."""
    host = FakeHost()
    near, far = memory_ends(buffer)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_worker(host.opened(), near, limits=Limits())

        nursery.start_soon(serve)  # noqa: ASYNC113  # waited for in the next line
        await trio.testing.wait_all_tasks_blocked()
        peer = Peer(host, far)
        host.start("p1")
        assert isinstance(await peer.hear(), ProcessLifecycle | dict)
        try:
            yield peer
        finally:
            await far.aclose()


def asks(request_id: str = "c1", **fields: object) -> dict[str, object]:
    return {"type": "backend_process_call", "requestId": request_id, "processId": "p1", "method": "square", **fields}


def about(kind: str, request_id: str = "c1", **fields: object) -> dict[str, object]:
    return {"type": f"backend_process_call_{kind}", "requestId": request_id, **fields}


async def test_a_call_reaches_its_process_with_all_that_was_said_and_is_answered() -> None:
    async with served() as peer:
        await peer.say(asks(payload={"n": 3}, timeoutMs=2500, overrun="kill", userId="ada"), asks("c2"))
        assert [call.request for call in peer.calls] == [
            CallRequest("square", {"n": 3}, 2.5, "kill"),
            CallRequest("square"),
        ]
        peer.calls[1].answer(None)
        assert await peer.hear() == {"type": "response", "requestId": "c2", "result": None}
        peer.calls[0].answer(9)
        assert await peer.hear() == {"type": "response", "requestId": "c1", "result": 9}


async def test_a_peer_that_speaks_in_values_is_answered_in_values() -> None:
    async with served() as peer:
        await peer.say(ProcessCall("c1", "p1", "square"), ProcessCall("c2", "p1", "index", window=4))
        peer.calls[0].answer(9)
        assert await peer.hear() == Response("c1", 9)
        peer.calls[1].stream.say("a")
        assert await peer.hear() == ProcessCallItem("c2", "a")
        await peer.say(ProcessCallCredit("c2", 1))
        assert peer.calls[1].stream.granted == [1]
        await peer.say(ProcessCallCancel("c2"))
        assert (await peer.hear()).error_type == "CallError"


async def test_a_call_that_names_another_user_or_a_process_that_has_ended_is_refused() -> None:
    async with served() as peer:
        await peer.say(asks(userId="eve"))
        answer = await peer.hear()
        assert answer["errorType"] == "ProcessAccessError"
        peer.host.move("p1", ProcessState.STOPPED, ExitReason.STOPPED)
        await peer.hear()
        await peer.say(asks())
        answer = await peer.hear()
        assert answer == {
            "type": "response",
            "requestId": "c1",
            "error": "it has ended",
            "errorType": "ProcessLostError",
            "handedOver": False,
        }
        assert not peer.calls


async def test_a_call_whose_time_was_over_on_the_way_is_not_made() -> None:
    async with served() as peer:
        await peer.say(asks(timeoutMs=0))
        assert (await peer.hear())["errorType"] == "CallTimeoutError"
        assert not peer.calls


async def test_a_cancelled_call_is_answered_once_and_at_once() -> None:
    async with served() as peer:
        await peer.say(asks(), about("cancel"))
        answer = await peer.hear()
        assert (answer["requestId"], answer["errorType"]) == ("c1", "CallError")
        assert "cancelled" in answer["error"]
        assert peer.calls[0].is_cancelled
        await peer.say(about("cancel"), about("credit", items=3))  # it has ended: nothing
        assert await peer.hears_nothing()
        await peer.say(asks())  # its id is free again
        peer.calls[1].answer(1)
        assert (await peer.hear())["result"] == 1


async def test_an_id_is_taken_while_its_call_goes_on() -> None:
    async with served() as peer:
        await peer.say(asks(), asks())
        answer = await peer.hear()
        assert (answer["requestId"], answer["errorType"]) == ("c1", "PeerProtocolError")
        assert len(peer.calls) == 1
        peer.calls[0].answer(9)
        assert (await peer.hear())["result"] == 9


async def test_items_of_a_stream_come_before_its_end_and_credit_goes_through() -> None:
    async with served() as peer:
        await peer.say(asks(window=4))
        stream = peer.calls[0].stream
        assert peer.calls[0].request.window == 4
        stream.say(1, None)
        stream.end()
        assert [await peer.hear() for _ in range(3)] == [
            {"type": "backend_process_call_item", "requestId": "c1", "value": 1},
            {"type": "backend_process_call_item", "requestId": "c1", "value": None},
            {"type": "response", "requestId": "c1", "result": None},
        ]
        assert stream.is_closed
        await peer.say(asks("c2", window=4))
        peer.calls[1].stream.say("a", "b", "c")
        for _ in range(3):
            await peer.hear()
        await peer.say(about("credit", "c2", items=2), about("credit", "c2", items=MOST_WINDOW))
        assert peer.calls[1].stream.granted == [2, 1]  # no more than was sent


async def test_an_error_of_a_stream_comes_after_its_items() -> None:
    async with served() as peer:
        await peer.say(asks(window=4))
        peer.calls[0].stream.say(1)
        peer.calls[0].stream.end(CallFailedError("why", error_type="ValueError", text="no"))
        assert (await peer.hear())["value"] == 1
        answer = await peer.hear()
        assert answer["errorType"] == "CallFailedError"
        assert answer["failure"] == {"errorType": "ValueError", "text": "no"}


async def test_a_cancelled_stream_is_closed_and_answered() -> None:
    async with served() as peer:
        await peer.say(asks(window=4))
        await peer.say(about("cancel"))
        assert (await peer.hear())["errorType"] == "CallError"
        assert peer.calls[0].stream.is_closed


@pytest.mark.parametrize(
    "wrong",
    [
        about("credit", items=0),
        about("credit", items=-1),
        about("credit", items=MOST_WINDOW + 1),
        about("credit", items="4"),
        about("credit"),
        about("cancel", requestId=7),
        ProcessCallCredit("c1", 0),
        ProcessCallCredit("c1", MOST_WINDOW + 1),
    ],
    ids=str,
)
async def test_wrong_credit_is_logged_and_ends_no_call(wrong: object, caplog: pytest.LogCaptureFixture) -> None:
    async with served() as peer:
        await peer.say(asks(window=4))
        peer.calls[0].stream.say("a")
        await peer.hear()
        await peer.say(wrong)
        assert await peer.hears_nothing()
        assert "cannot be answered" in caplog.text
        assert sum(peer.calls[0].stream.granted) == 0
        peer.calls[0].stream.end()
        await peer.hear()


async def test_credit_and_cancellations_of_unknown_calls_and_credit_of_a_call_are_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served() as peer:
        await peer.say(asks(), about("credit", items=1), about("credit", "c9", items=1), about("cancel", "c9"))
        assert await peer.hears_nothing()
        peer.calls[0].answer(9)
        assert (await peer.hear())["result"] == 9
    assert not caplog.records


async def test_no_request_waits_for_a_call() -> None:
    async with served() as peer:
        await peer.say(*(asks(f"c{number}") for number in range(50)))
        assert len(peer.calls) == 50
        await peer.say({"type": "backend_process_get", "requestId": "g1", "processId": "p1"})
        assert (await peer.hear())["requestId"] == "g1"
        for call in peer.calls:
            call.answer(1)


async def test_calls_that_wait_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spindle_trio._worker_protocol._waiting_requests.WaitingCalls.__init__.__defaults__", (2,))
    async with served() as peer:
        await peer.say(asks("c1"), asks("c2", window=3), asks("c3"))
        refusal = await peer.hear()
        assert (refusal["requestId"], refusal["errorType"]) == ("c3", "CallError")
        assert "2 calls of this connection are waiting" in refusal["error"]
        peer.calls[0].answer(1)
        await peer.hear()
        await peer.say(asks("c4"))
        peer.calls[2].answer(1)
        assert (await peer.hear())["requestId"] == "c4"


async def test_calls_that_wait_are_bounded_in_what_they_take_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spindle_trio._worker_protocol._waiting_requests.MOST_BYTES", 100_000)
    async with served() as peer:
        await peer.say(asks("c1", payload="x" * 200_000))  # one alone may be of any size
        await peer.say(asks("c2", payload="x"), asks("c3"))
        refusal = await peer.hear()
        assert (refusal["requestId"], refusal["errorType"]) == ("c2", "CallError")
        assert len(peer.calls) == 2
        peer.calls[0].answer(1)
        await peer.hear()
        await peer.say(asks("c4", payload="x" * 90_000))
        assert len(peer.calls) == 3


async def test_what_a_peer_does_not_read_waits_in_the_place_of_its_call() -> None:
    """Nothing piles up in the connection: one value is on its way, and one waits for its turn."""
    async with served(buffer=0) as peer:
        await peer.say(asks("c1", window=8), asks("c2"), asks("c3"))
        stream = peer.calls[0].stream
        stream.say(*range(8))
        for call in peer.calls[1:]:
            call.answer("x")
        await trio.testing.wait_all_tasks_blocked()
        assert stream._items.statistics().current_buffer_used >= 8 - 3
        # An answer to a question goes out before all that waits.
        await peer.say({"type": "backend_process_get", "requestId": "g1", "processId": "p1"})
        heard = [await peer.hear() for _ in range(11)]
        assert heard[1]["requestId"] == "g1"
        assert [said["value"] for said in heard if said["type"] == "backend_process_call_item"] == list(range(8))
        assert {said["requestId"] for said in heard if said["type"] == "response"} == {"c2", "c3", "g1"}


async def test_a_lost_connection_cancels_its_calls() -> None:
    async with served() as peer:
        await peer.say(asks("c1"), asks("c2", window=4))
    assert peer.calls[0].is_cancelled
    assert peer.calls[1].stream.is_closed


async def test_calls_that_end_in_the_unload_are_still_answered() -> None:
    async with served() as peer:
        await peer.say(asks())
        peer.host.calls_end_with = LOST
        await peer.end.sending.aclose()
        answers = [said async for said in peer.end.receiving if said["type"] == "response"]  # type: ignore[index]
        assert [answer["errorType"] for answer in answers] == ["ProcessLostError"]  # type: ignore[index]


async def test_what_a_line_cannot_carry_is_an_error_of_its_call_alone() -> None:
    host = FakeHost()
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_worker(host.opened(), StreamChannel(near, max_line_bytes=2_000), limits=Limits())

        nursery.start_soon(serve)  # noqa: ASYNC113  # waited for in the next line
        await trio.testing.wait_all_tasks_blocked()
        host.start("p1")
        calls = host.processes["p1"].calls.asked
        peer = StreamChannel(far)
        await peer.receive()
        for number, outcome in enumerate(
            [
                "x" * 3_000,
                CallFailedError("why", error_type="ValueError", text="no", traceback="x" * 3_000),
                UnknownMethodError("why", known=["x" * 3_000]),
                ProcessLostError(
                    "why", info=host.INFO, post_mortem=PostMortem("no", stderr="x" * 3_000), handed_over=True
                ),
            ]
        ):
            await peer.send(asks(f"c{number}"))  # type: ignore[arg-type]  # an object
            await trio.testing.wait_all_tasks_blocked()
            calls[-1].answer(outcome)
            answer = await peer.receive()
            assert answer["requestId"] == f"c{number}"
            assert answer["errorType"] == (
                type(outcome).__name__ if isinstance(outcome, Exception) else "PayloadError"
            ), answer
        assert "info" in answer
        assert "postMortem" not in answer
        await peer.send(asks("s1", window=4))  # type: ignore[arg-type]  # an object
        await trio.testing.wait_all_tasks_blocked()
        calls[-1].stream.say("a", "x" * 3_000, "b")
        assert (await peer.receive())["value"] == "a"
        answer = await peer.receive()
        if answer["type"] == "backend_process_call_item":
            answer = await peer.receive()
        assert (answer["requestId"], answer["errorType"]) == ("s1", "PayloadError")
        assert calls[-1].stream.is_closed
        await peer.aclose()


# ---- the connecting end: the test plays the host


class PlayedHost(PlayedEnd):
    """The host's end of a connection with one process."""

    async def end_process(self) -> None:
        event = LifecycleEvent(
            "p1", "a.py", "a.py", ProcessState.FAILED, AT, post_mortem=PostMortem("it crashed"), error="it crashed"
        )
        await self.say(ProcessLifecycle(event))


@asynccontextmanager
async def connected(
    buffer: float = math.inf,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
) -> AsyncIterator[tuple[PlayedHost, ProcessHandle]]:
    """Connect to a host that the test plays, and spawn one process."""
    near, far = memory_ends(buffer)
    host = PlayedHost(far)
    async with connect_worker(near, limits=limits) as worker, trio.open_nursery() as nursery:
        handles: list[ProcessHandle] = []

        async def spawn() -> None:
            handles.append(await worker.backend_processes.spawn("a.py", user_id="ada"))

        nursery.start_soon(spawn)
        request = await host.hear()
        assert isinstance(request, ProcessSpawn)
        await host.say(Response(request.request_id, to_json(FakeHost.INFO)))
        await trio.testing.wait_all_tasks_blocked()
        yield host, handles[0]
        nursery.cancel_scope.cancel()


async def test_a_call_is_asked_for_and_answered() -> None:
    async with connected() as (host, handle), trio.open_nursery() as nursery:
        answers: list[object] = []

        async def call() -> None:
            answers.append(await handle.call("square", {"n": 3}, overrun="kill"))

        nursery.start_soon(call)
        request = await host.hear()
        assert request == ProcessCall(request.request_id, "p1", "square", {"n": 3}, overrun="kill")
        await host.say(Response(request.request_id, 9))
        assert answers == [9]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Response("", error="why", error_type="CallFailedError", failure=CallFailure("E", "t")), CallFailedError),
        (Response("", error="why", error_type="UnknownMethodError", known=("a",)), UnknownMethodError),
        (Response("", error="why", error_type="CallTimeoutError"), CallTimeoutError),
        (Response("", error="why", error_type="CallError"), CallError),
        (Response("", error="why", error_type="ProcessAccessError"), ProcessAccessError),
        (Response("", error="why", error_type="ClosedResourceError"), trio.ClosedResourceError),
        (Response("", error="why", error_type="Newer"), SpindleError),
    ],
)
async def test_an_error_is_raised_at_the_caller_and_at_the_reader(answer: Response, kind: type[Exception]) -> None:
    async with connected() as (host, handle), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(kind, match="why") as caught:
                await handle.call("square")
            if isinstance(caught.value, CallError):
                assert (caught.value.method, caught.value.process_id) == ("square", "p1")

        async def read() -> None:
            async with handle.stream("index") as items:
                assert await items.receive() == 1
                for _ in range(2):
                    with pytest.raises(kind, match="why") as caught:
                        await items.receive()
                    assert getattr(caught.value, "method", "index") == "index"

        nursery.start_soon(call)
        request = await host.hear()
        await host.say(Response(request.request_id, error=answer.error, error_type=answer.error_type))
        nursery.start_soon(read)
        request = await host.hear()
        await host.say(
            ProcessCallItem(request.request_id, 1),
            Response(request.request_id, error=answer.error, error_type=answer.error_type),
        )


async def test_a_process_that_the_host_has_forgotten_is_explained_by_what_this_end_knows() -> None:
    async with connected() as (host, handle):
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(ProcessLostError) as caught:
                    await handle.call("square")
                assert not caught.value.handed_over
                assert caught.value.info == handle.info
                assert caught.value.post_mortem == PostMortem("it crashed")

            nursery.start_soon(call)
            request = await host.hear()
            await host.end_process()
            lost = Response(request.request_id, error="it has ended", error_type="ProcessLostError", handed_over=False)
            await host.say(lost)
        # And one that is known to have ended is not asked.
        with pytest.raises(ProcessLostError) as caught:
            await handle.call("square")
        assert not caught.value.handed_over
        assert caught.value.post_mortem == PostMortem("it crashed")
        with pytest.raises(ProcessLostError):
            async with handle.stream("index"):
                pass
        assert await host.hears_nothing()


async def test_what_is_left_of_the_time_travels_as_of_its_leaving(autojump_clock: MockClock) -> None:
    async with connected(buffer=0) as (host, handle), trio.open_nursery() as nursery:
        nursery.start_soon(handle.send, "first")  # holds up the connection
        await trio.testing.wait_all_tasks_blocked()

        async def call() -> None:
            with pytest.raises(CallTimeoutError, match="square"):
                await handle.call("square", timeout=3)

        async def call_in_scope() -> None:
            with trio.move_on_after(2):
                await handle.call("cube", timeout=3)

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(call_in_scope)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1.25)
        await host.hear()
        square, cube = await host.hear(), await host.hear()
        assert (square.method, square.timeout) == ("square", 1.75)
        assert (cube.method, cube.timeout) == ("cube", 0.75)
        assert await host.hear() == ProcessCallCancel(cube.request_id)
        assert await host.hear() == ProcessCallCancel(square.request_id)


async def test_a_call_whose_time_is_over_raises_at_once_and_its_late_answer_is_dropped(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected() as (host, handle):
        began = trio.current_time()
        with pytest.raises(TimeoutError, match=r"'square' was not answered .* within 2 s") as late:
            await handle.call("square", timeout=2)
        assert isinstance(late.value, CallTimeoutError)
        assert (late.value.method, late.value.process_id, late.value.entry) == ("square", "p1", handle.entry)
        assert trio.current_time() - began == 2
        request, cancel = await host.hear(), await host.hear()
        assert cancel == ProcessCallCancel(request.request_id)
        await host.say(Response(request.request_id, 9))
        assert not caplog.records
        assert handle.statistics().late_answers == 1


async def test_a_cancelled_call_goes_on_at_once_and_is_cancelled_there() -> None:
    async with connected() as (host, handle):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.call, "square")
            request = await host.hear()
            nursery.cancel_scope.cancel()
        assert await host.hear() == ProcessCallCancel(request.request_id)
        assert await host.hears_nothing()


async def test_a_call_that_is_cancelled_before_it_has_left_is_never_sent() -> None:
    async with connected(buffer=0, limits=Limits(outbox_bytes=100)) as (host, handle):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.send, "first")
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as calls:
                calls.start_soon(handle.call, "queued", "x" * 90)
                await trio.testing.wait_all_tasks_blocked()
                calls.start_soon(handle.call, "waits for room", "x" * 90)
                await trio.testing.wait_all_tasks_blocked()
                calls.cancel_scope.cancel()
            nursery.start_soon(handle.send, "second")
            assert (await host.hear()).payload == "first"
            assert (await host.hear()).payload == "second"
        assert not handle._worker._pending  # type: ignore[attr-defined]  # a `RemoteWorker`


async def test_a_payload_that_may_not_travel_is_refused_before_anything_is_sent() -> None:
    async with connected(limits=Limits(frame_bytes=100)) as (host, handle):
        for payload in ({1}, math.nan, "x" * 101):
            with pytest.raises(PayloadError):
                await handle.call("square", payload)
            with pytest.raises(PayloadError):
                async with handle.stream("index", payload):
                    pass
        assert await host.hears_nothing()


async def test_what_was_asked_is_as_it_was_when_it_was_asked() -> None:
    async with connected(buffer=0) as (host, handle), trio.open_nursery() as nursery:
        payload = [1]
        nursery.start_soon(handle.call, "square", payload)
        await trio.testing.wait_all_tasks_blocked()
        payload.append(2)
        assert (await host.hear()).payload == [1]
        nursery.cancel_scope.cancel()


async def test_the_host_is_asked_whether_a_process_is_idle() -> None:
    """It alone knows whether the handler of a cancelled call has given up."""
    async with connected() as (host, handle):
        calls = handle._process.calls
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calls.wait_idle)
            request = await host.hear()
            assert request == ProcessCallIdle(request.request_id, "p1")
            assert len(nursery.child_tasks) == 1
            await host.say(Response(request.request_id))
            assert not nursery.child_tasks
            nursery.start_soon(calls.wait_idle)
            request = await host.hear()
            nursery.cancel_scope.cancel()
        assert await host.hear() == ProcessCallCancel(request.request_id)
        await host.end_process()
        await calls.wait_idle()
        assert await host.hears_nothing()


async def test_items_are_read_and_credit_goes_back_at_a_third_of_the_window() -> None:
    async with connected() as (host, handle):
        async with handle.stream("index", window=4) as items:
            request = await host.hear()
            assert request.window == 4
            await host.say(*(ProcessCallItem(request.request_id, number) for number in range(3)))
            assert await items.receive() == 0
            assert await host.hears_nothing()
            assert await items.receive_many() == [1, 2]
            assert await host.hear() == ProcessCallCredit(request.request_id, 3)
            with pytest.raises(trio.WouldBlock):
                items.receive_nowait()
            await host.say(ProcessCallItem(request.request_id, 3), Response(request.request_id))
            assert await items.receive() == 3
            for _ in range(2):
                with pytest.raises(trio.EndOfChannel):
                    await items.receive()
        assert await host.hears_nothing()  # it has ended: there is nothing to cancel


async def test_a_stream_that_is_left_is_cancelled_and_what_still_comes_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as (host, handle):
        async with handle.stream("index") as items:
            request = await host.hear()
            await host.say(ProcessCallItem(request.request_id, 1))
        assert await host.hear() == ProcessCallCancel(request.request_id)
        with pytest.raises(trio.ClosedResourceError):
            await items.receive()
        await host.say(
            ProcessCallItem(request.request_id, 2), Response(request.request_id, error="no", error_type="CallError")
        )
        assert not caplog.records
        # After that the id means nothing.
        await host.say(ProcessCallItem(request.request_id, 3))
        assert "which is no stream" in caplog.text


async def test_a_closed_stream_wakes_its_reader() -> None:
    async with connected() as (_, handle), handle.stream("index") as items, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await items.receive()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await items.aclose()


async def test_a_stream_whose_time_is_over_raises_after_its_items(autojump_clock: MockClock) -> None:
    async with connected() as (host, handle):
        began = trio.current_time()
        async with handle.stream("index", timeout=2) as items:
            request = await host.hear()
            await host.say(ProcessCallItem(request.request_id, 1))
            assert await items.receive() == 1
            for _ in range(2):
                with pytest.raises(CallTimeoutError):
                    await items.receive()
                assert trio.current_time() - began == 2
            assert await host.hear() == ProcessCallCancel(request.request_id)
        assert await host.hears_nothing()


async def test_a_host_that_sends_more_than_the_window_ends_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (host, handle), handle.stream("index", window=2) as items:
        request = await host.hear()
        await host.say(*(ProcessCallItem(request.request_id, number) for number in range(4)))
        assert await host.hear() == ProcessCallCancel(request.request_id)
        assert await items.receive_many() == [0, 1]
        with pytest.raises(PeerProtocolError, match="window"):
            await items.receive()


async def test_an_item_for_a_call_is_logged_and_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as (host, handle), trio.open_nursery() as nursery:
        answers: list[object] = []

        async def call() -> None:
            answers.append(await handle.call("square"))

        nursery.start_soon(call)
        request = await host.hear()
        await host.say(ProcessCallItem(request.request_id, 1), ProcessCallItem("c9", 1))
        assert caplog.text.count("which is no stream") == 2
        await host.say(Response(request.request_id, 9))
        assert answers == [9]


async def test_a_lost_connection_breaks_calls_and_streams() -> None:
    async with connected() as (host, handle), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await handle.call("square")

        async def read() -> None:
            async with handle.stream("index") as items:
                with pytest.raises(trio.BrokenResourceError):
                    await items.receive()

        nursery.start_soon(call)
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await host.end.aclose()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await handle.call("square")


async def test_a_closed_worker_takes_no_calls() -> None:
    near, far = memory_ends()
    host = PlayedHost(far)
    async with connect_worker(near) as worker, trio.open_nursery() as nursery:
        handles: list[ProcessHandle] = []

        async def spawn() -> None:
            handles.append(await worker.backend_processes.spawn("a.py"))

        nursery.start_soon(spawn)
        await host.say(Response((await host.hear()).request_id, to_json(FakeHost.INFO)))
    with pytest.raises(trio.ClosedResourceError):
        await handles[0].call("square")


# ---- both ends, a real host, and a child that the test drives


@asynccontextmanager
async def called(*, user_id: str | None = "ada") -> AsyncIterator[tuple[ProcessHandle, ScriptedChild]]:
    """Serve a worker over lines, connect to it, and spawn a child that takes calls."""
    child = ScriptedChild()
    near, far = trio.testing.memory_stream_pair()
    async with open_host(MemoryLauncher({"a.py": child}), cancel_grace=1.0) as host, trio.open_nursery() as nursery:
        nursery.start_soon(partial(host.serve_worker, StreamChannel(near), "remote", user_id=user_id))
        async with connect_worker(StreamChannel(far)) as worker, trio.open_nursery() as spawning:
            handles: list[ProcessHandle] = []

            async def spawn() -> None:
                spawned = await worker.backend_processes.spawn("a.py", user_id="ada", heartbeat_timeout=math.inf)
                handles.append(spawned)

            spawning.start_soon(spawn)
            await child.started()
            child.ready(protocol=2, calls=True)
            await trio.testing.wait_all_tasks_blocked()
            yield handles[0], child
            spawning.cancel_scope.cancel()


async def test_dates_and_bytes_of_a_javascript_entry_arrive_as_such(autojump_clock: MockClock) -> None:
    rich = b'{"at":{"$date":"2026-03-01T12:00:00.250Z"},"data":{"$bytes":"AP8="}}'
    expected = {"at": datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC), "data": b"\0\xff"}
    async with called() as (handle, child), trio.open_nursery() as nursery:

        async def call() -> None:
            assert await handle.call("square") == expected

        nursery.start_soon(call)
        asked = await child.calls.next()
        child.calls.send_raw(b"\2$[%d,%b]" % (asked.call_id, rich))
        await trio.testing.wait_all_tasks_blocked()
        async with handle.stream("index") as items:
            asked = await child.calls.next()
            child.calls.send_raw(b"\3$[%d,%b]" % (asked.call_id, rich))
            assert await items.receive() == expected


async def test_the_far_readers_credit_goes_through_to_the_process(autojump_clock: MockClock) -> None:
    async with called() as (handle, child), handle.stream("index", window=4) as items:
        asked = await child.calls.next()
        assert asked.window == 4
        for number in range(4):
            child.calls.item(asked.call_id, number)
        with trio.move_on_after(10):
            await child.calls.wait_credit()
        assert child.calls.credits == []  # all have gone to the far end, and nobody has read one
        assert await items.receive_many() == [0, 1, 2, 3]
        assert await child.calls.wait_credit() == (asked.call_id, 4)
        child.calls.item(asked.call_id, 4)
        child.calls.end(asked.call_id)
        assert [item async for item in items] == [4]


async def test_a_call_is_cancelled_in_the_process_when_its_time_is_over(autojump_clock: MockClock) -> None:
    async with called() as (handle, child):
        began = trio.current_time()
        with pytest.raises(CallTimeoutError):
            await handle.call("hang", timeout=2.5)
        assert trio.current_time() - began == 2.5
        asked = await child.calls.next()
        assert asked.seconds == pytest.approx(2.5, abs=0.002)
        await child.calls.wait_cancelled(asked.call_id)
        assert handle.state is ProcessState.RUNNING


async def test_a_caller_that_is_cancelled_cancels_in_the_process(autojump_clock: MockClock) -> None:
    async with called() as (handle, child):
        with trio.move_on_after(1) as scope:
            await handle.call("hang")
        assert scope.cancelled_caught
        asked = await child.calls.next()
        assert asked.seconds == pytest.approx(1, abs=0.002)
        await child.calls.wait_cancelled(asked.call_id)
        with trio.move_on_after(1):
            async with handle.stream("index") as items:
                await items.receive()
        asked = await child.calls.next()
        await child.calls.wait_cancelled(asked.call_id)


async def test_a_handler_that_goes_on_after_its_cancellation_ends_its_process_if_the_caller_says_so(
    autojump_clock: MockClock,
) -> None:
    async with called() as (handle, _):
        began = trio.current_time()
        with pytest.raises(CallTimeoutError):
            await handle.call("hang", timeout=2, overrun="kill")
        info = await handle.wait_ended()
        assert info.state is ProcessState.TIMED_OUT
        assert trio.current_time() - began == pytest.approx(3, abs=0.01)
        assert "'hang'" in str(info.error)


async def test_calls_and_streams_of_a_process_that_ends_are_lost_after_what_it_has_said(
    autojump_clock: MockClock,
) -> None:
    async with called() as (handle, child), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(ProcessLostError) as caught:
                await handle.call("square")
            await handle.wait_ended()
            assert caught.value.handed_over
            assert caught.value.info.state is ProcessState.FAILED
            assert caught.value.post_mortem == handle.post_mortem

        async def read() -> None:
            async with handle.stream("index") as items:
                assert await items.receive() == 1
                with pytest.raises(ProcessLostError, match="exited with code 3"):
                    await items.receive()

        nursery.start_soon(call)
        await child.calls.next()
        nursery.start_soon(read)
        child.calls.item((await child.calls.next()).call_id, 1)
        child.exit(3)


async def test_a_process_is_idle_once_it_has_ended_its_calls_also_those_that_were_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with called() as (handle, child):
        calls = handle._process.calls
        with trio.fail_after(1):
            await calls.wait_idle()
        with pytest.raises(CallTimeoutError):
            await handle.call("hang", timeout=2)
        asked = await child.calls.next()
        with trio.move_on_after(10) as waiting:
            await calls.wait_idle()
        assert waiting.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calls.wait_idle)
            await trio.testing.wait_all_tasks_blocked()
            child.calls.say_cancelled(asked.call_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calls.wait_idle)
            child.exit()


async def test_a_process_without_calls_says_so_at_the_far_end(autojump_clock: MockClock) -> None:
    child = ScriptedChild()
    near, far = trio.testing.memory_stream_pair()
    async with open_host(MemoryLauncher({"a.py": child})) as host, trio.open_nursery() as nursery:
        nursery.start_soon(partial(host.serve_worker, StreamChannel(near), "remote", user_id="ada"))
        async with connect_worker(StreamChannel(far)) as worker, trio.open_nursery() as spawning:

            async def spawn_and_call() -> None:
                handle = await worker.backend_processes.spawn("a.py", heartbeat_timeout=math.inf)
                with pytest.raises(UnknownMethodError, match="takes no calls"):
                    await handle.call("square")
                async with handle.stream("index") as items:
                    with pytest.raises(UnknownMethodError, match="takes no calls"):
                        await items.receive()

            spawning.start_soon(spawn_and_call)
            await child.started()
            child.ready()


async def test_leaving_the_connection_cancels_what_the_process_works_on(autojump_clock: MockClock) -> None:
    async with called() as (handle, child):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swallow_broken, handle)
            asked = await child.calls.next()
            await handle._worker._channel.aclose()  # type: ignore[attr-defined]  # of this program, as if it had died
        await child.calls.wait_cancelled(asked.call_id)
        await child.stop_requested()
        child.exit()


async def swallow_broken(handle: ProcessHandle) -> None:
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await handle.call("hang")


async def test_a_call_to_another_users_process_is_refused_by_a_real_host(autojump_clock: MockClock) -> None:
    child = ScriptedChild()
    near, far = trio.testing.memory_stream_pair()
    async with open_host(MemoryLauncher({"a.py": child})) as host, trio.open_nursery() as nursery:
        nursery.start_soon(partial(host.serve_worker, StreamChannel(near), "remote"))
        peer = StreamChannel(far)
        spawn = {"type": "backend_process_spawn", "requestId": "s1", "options": {"entry": "a.py", "userId": "ada"}}
        await peer.send(spawn)  # type: ignore[arg-type]  # an object
        await child.started()
        child.ready(protocol=2, calls=True)
        while (said := await peer.receive())["type"] != "response":
            pass
        process_id = str(said["result"]["processId"])  # type: ignore[index,call-overload]
        await peer.send({**asks(userId="eve"), "processId": process_id})  # type: ignore[dict-item]
        answer = await peer.receive()
        assert (answer["requestId"], answer["errorType"]) == ("c1", "ProcessAccessError")
        await peer.send({**asks(userId="ada"), "processId": process_id})  # type: ignore[dict-item]
        child.calls.answer((await child.calls.next()).call_id, 9)
        assert (await peer.receive())["result"] == 9
        await peer.aclose()
        await child.stop_requested()
        child.exit()


BYTES_ENTRY = bytes(range(256)) * 2_000


async def bytes_entry(process: Any) -> None:
    @process.on_call
    async def give(payload: object) -> object:
        return {"data": BYTES_ENTRY}

    @process.on_call
    async def items(payload: object) -> Any:
        yield b"\x00\xff"
        yield bytearray(b"x")

    @process.on_call
    async def huge(payload: object) -> object:
        return bytes(60_000_000)

    process.ready()


@pytest.mark.slow
async def test_bytes_of_a_process_reach_a_worker_elsewhere_which_sends_none(autojump_clock: MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with open_host(MemoryLauncher({"a.py": bytes_entry})) as host, trio.open_nursery() as nursery:
        nursery.start_soon(partial(host.serve_worker, StreamChannel(near), "remote", user_id="ada"))
        async with connect_worker(StreamChannel(far)) as worker:
            handle = await worker.backend_processes.spawn("a.py", heartbeat_timeout=math.inf)
            assert await handle.call("give") == {"data": BYTES_ENTRY}
            async with handle.stream("items") as items:
                assert [item async for item in items] == [b"\x00\xff", b"x"]
            why = (
                r"payload\.a: bytes is not JSON-safe: send text, as by base64: a worker in another program sends lines"
            )
            for sending in (handle.call("give", {"a": b"x"}), handle.send({"a": b"x"})):
                with pytest.raises(PayloadError, match=why):
                    await sending
            with pytest.raises(PayloadError, match="bytes"):
                await worker.backend_processes.spawn("a.py", payload={"a": b"x"})
            with pytest.raises(PayloadError):
                await handle.call("huge")
            assert await handle.call("give") == {"data": BYTES_ENTRY}
