"""The connecting end of the worker protocol, message by message, with a host that the test plays."""

from __future__ import annotations

import gc
import logging
import math
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import trio
import trio.testing

from spindle_trio._errors import (
    DuplicateKeyError,
    LaggedError,
    PayloadError,
    PeerProtocolError,
    ProcessAccessError,
    ProcessLimitError,
    SpindleError,
    StartupCancelledError,
    StartupFailedError,
    StartupTimeoutError,
)
from spindle_trio._model import (
    ExitReason,
    JsonValue,
    LifecycleEvent,
    Limits,
    ProcessGet,
    ProcessInfo,
    ProcessLifecycle,
    ProcessList,
    ProcessMessage,
    ProcessReleaseKey,
    ProcessSend,
    ProcessSendFailed,
    ProcessSpawn,
    ProcessState,
    ProcessStop,
    Response,
    SpawnArguments,
    StopOptions,
)
from spindle_trio._process_handle import ProcessHandle
from spindle_trio._worker import Worker
from spindle_trio._worker_protocol import StreamChannel, connect_worker
from spindle_trio.wire import error_response, to_json
from support.worker_protocol import AT, PlayedEnd, memory_ends

LATER = AT + timedelta(seconds=5)


class PlayedHost(PlayedEnd):
    """The host's end of a channel in memory."""

    async def hear_spawn(self) -> ProcessSpawn:
        request = await self.hear()
        assert isinstance(request, ProcessSpawn)
        return request

    async def answer(self, request: object, result: JsonValue = None) -> None:
        assert isinstance(request, ProcessSpawn | ProcessList | ProcessGet | ProcessStop | ProcessReleaseKey)
        await self.say(Response(request.request_id, result))

    async def refuse(self, request: object, error: Exception) -> None:
        assert isinstance(request, ProcessSpawn | ProcessList | ProcessGet | ProcessStop | ProcessReleaseKey)
        await self.say(error_response(request.request_id, error))

    async def start(self, process_id: str = "p1") -> None:
        await self.say(event(ProcessState.STARTING, process_id))

    async def run(self, request: object, process_id: str = "p1") -> None:
        """Let a process start, be ready, and be named as the answer."""
        await self.start(process_id)
        await self.say(event(ProcessState.RUNNING, process_id))
        await self.answer(request, to_json(info(process_id)))

    async def end_process(self, process_id: str = "p1", messages: int = 0, result: JsonValue = None) -> None:
        await self.say(event(ProcessState.COMPLETED, process_id, messages=messages, result=result))


def info(process_id: str = "p1", state: ProcessState = ProcessState.RUNNING) -> ProcessInfo:
    return ProcessInfo(process_id, "a.py", "a.py", state, AT, ready_at=AT, last_heartbeat_at=AT)


def event(state: ProcessState, process_id: str = "p1", messages: int = 0, result: JsonValue = None) -> ProcessLifecycle:
    reason = ExitReason(state) if state.is_terminal else None
    moved = LifecycleEvent(process_id, "a.py", "a.py", state, AT, exit_reason=reason, result=result)
    return ProcessLifecycle(moved, messages)


@asynccontextmanager
async def connected(
    buffer: float = math.inf,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
) -> AsyncIterator[tuple[Worker, PlayedHost]]:
    near, far = memory_ends(buffer)
    async with connect_worker(near, limits=limits) as worker:
        yield worker, PlayedHost(far)


class InBackground:
    """A call that runs in a task of its own."""

    def __init__(self, nursery: trio.Nursery, call: Callable[[], object]) -> None:
        self.value: object = None
        self.error: BaseException | None = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run, call)

    async def _run(self, call: Callable[[], object]) -> None:
        with self.scope:
            try:
                self.value = await call()  # type: ignore[misc]  # each is an async function
            except Exception as error:
                self.error = error
        self.done.set()


@asynccontextmanager
async def with_process(
    buffer: float = math.inf,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
) -> AsyncIterator[tuple[Worker, PlayedHost, ProcessHandle, trio.Nursery]]:
    """Be connected, with a process p1 that runs."""
    async with connected(buffer, limits) as (worker, host), trio.open_nursery() as nursery:
        spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
        await host.run(await host.hear_spawn())
        await spawning.done.wait()
        assert isinstance(spawning.value, ProcessHandle)
        yield worker, host, spawning.value, nursery
        nursery.cancel_scope.cancel()


async def test_a_spawn_is_asked_for_and_returns_when_it_is_answered() -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        spawning = InBackground(
            nursery, lambda: worker.backend_processes.spawn("a.py", kind="k", payload=None, heartbeat_timeout=math.inf)
        )
        request = await host.hear_spawn()
        assert request.options.kind == "k"
        assert request.options.payload is None
        assert request.options.heartbeat_timeout == math.inf
        await host.run(request)
        handle = spawning.value
        assert isinstance(handle, ProcessHandle)
        assert handle.process_id == "p1"
        assert handle.pid is None
        assert handle.info == info()


@pytest.mark.parametrize(
    "error",
    [
        DuplicateKeyError("why", info("p0")),
        ProcessLimitError("why", 16),
        StartupTimeoutError("why", info=info(state=ProcessState.TIMED_OUT)),
        SpindleError("why"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_spawn_that_fails_raises_the_hosts_error(error: SpindleError) -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
        request = await host.hear_spawn()
        await host.refuse(request, error)
        assert type(spawning.error) is type(error)
        assert str(spawning.error) == "why"
        assert vars(spawning.error) == vars(error)


async def test_a_host_whose_worker_is_closing_is_heard_as_trio_says_it() -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
        await host.refuse(await host.hear_spawn(), trio.ClosedResourceError("closed"))
        assert isinstance(spawning.error, trio.ClosedResourceError)
        listing = InBackground(nursery, worker.backend_processes.list)
        await host.refuse(await host.hear(), trio.BrokenResourceError("broken"))
        assert isinstance(listing.error, trio.BrokenResourceError)


async def test_a_handle_is_up_to_date_before_anybody_hears_of_the_event() -> None:
    seen: list[tuple[ProcessState, ProcessState, object]] = []
    async with with_process() as (worker, host, handle, nursery):
        ending = InBackground(nursery, handle.wait_ended)
        await trio.testing.wait_all_tasks_blocked()

        def look(heard: LifecycleEvent) -> None:
            seen.append((heard.state, handle.state, handle.result))
            assert not ending.done.is_set()

        worker.backend_processes.on_lifecycle(look)
        await host.say(event(ProcessState.STOPPING))
        await host.end_process(result={"done": 3})
        assert seen == [
            (ProcessState.STOPPING, ProcessState.STOPPING, None),
            (ProcessState.COMPLETED, ProcessState.COMPLETED, {"done": 3}),
        ]
        assert ending.value == handle.info
        assert handle.info.ended_at == AT
        assert handle.info.exit_reason is ExitReason.COMPLETED


async def test_messages_that_follow_the_terminal_event_are_received_before_the_end() -> None:
    async with with_process() as (_, host, handle, _nursery):
        messages = handle.messages()
        await host.say(ProcessMessage("p1", 1))
        await host.end_process(messages=2)
        assert handle.state is ProcessState.COMPLETED
        await host.say(ProcessMessage("p1", 2), ProcessMessage("p1", None))
        assert [message async for message in messages] == [1, 2, None]


async def test_messages_end_with_the_process_where_none_are_to_follow() -> None:
    async with with_process() as (worker, host, handle, _nursery):
        all_messages = worker.backend_processes.messages()
        await host.say(ProcessMessage("p1", "x", "ada"))
        await host.end_process()
        assert [message async for message in handle.messages()] == ["x"]
        assert await all_messages.receive() == ProcessMessage("p1", "x")


async def test_an_end_of_a_process_that_was_never_heard_of_is_passed_on_all_the_same() -> None:
    async with connected() as (worker, host):
        events = worker.backend_processes.lifecycle_events()
        await host.end_process("p7")
        assert (await events.receive()).process_id == "p7"


async def test_a_message_after_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with with_process() as (_, host, _handle, _nursery):
        await host.end_process()
        await host.say(ProcessMessage("p1", "late"))
    assert "process p1: a message from it arrived after its end" in caplog.text


async def test_a_subscription_that_falls_behind_is_told_how_much_it_missed() -> None:
    """A stream has no back-pressure per process: this end always reads."""
    async with with_process(limits=Limits(inbox_messages=3)) as (_, host, handle, _nursery):
        messages = handle.messages()
        await host.say(*(ProcessMessage("p1", number) for number in range(5)))
        with pytest.raises(LaggedError) as caught:
            await messages.receive()
        assert caught.value.missed == 2
        assert [await messages.receive() for _ in range(3)] == [2, 3, 4]
        assert handle.statistics().messages_received == 5
        assert handle.statistics().messages_dropped == 2


async def test_the_bound_in_bytes_counts_here_too() -> None:
    async with with_process(limits=Limits(inbox_bytes=100)) as (_, host, handle, _nursery):
        await host.say(*(ProcessMessage("p1", str(number) * 48) for number in range(3)))
        assert [await handle.messages().receive() for _ in range(1)] == ["1" * 48]


async def test_a_cancelled_spawn_returns_at_once_and_its_process_is_stopped_when_it_is_named() -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
        request = await host.hear_spawn()
        await host.start()
        spawning.scope.cancel()
        await spawning.done.wait()
        assert await host.hears_nothing()
        await host.say(event(ProcessState.RUNNING))
        await host.answer(request, to_json(info()))
        stop = await host.hear()
        assert isinstance(stop, ProcessStop)
        assert stop.process_id == "p1"
        await host.answer(stop)
        await host.end_process()
        assert await host.hears_nothing()


async def test_a_spawn_that_is_cancelled_in_the_moment_of_its_answer_is_stopped_too() -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
        request = await host.hear_spawn()
        # The reader takes the answer in, and in the same step the caller is cancelled.
        unsubscribe = worker.backend_processes.on_lifecycle(lambda _: spawning.scope.cancel())
        await host.end.sending.send(event(ProcessState.STARTING))
        await host.end.sending.send(Response(request.request_id, to_json(info())))
        stop = await host.hear()
        unsubscribe()
        assert isinstance(stop, ProcessStop)
        assert stop.process_id == "p1"


async def test_a_cancelled_spawn_that_fails_leaves_nothing_to_stop() -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
        request = await host.hear_spawn()
        spawning.scope.cancel()
        await spawning.done.wait()
        await host.refuse(request, StartupCancelledError("why", info=info()))
        assert await host.hears_nothing()


@pytest.mark.parametrize("options", [{"keep_key": True}, {"successor_of": "p0"}])
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("outcome", ["ready", "failed"])
async def test_a_cancelled_spawn_gives_back_the_key_that_it_has_taken_over(
    options: SpawnArguments, is_late: bool, outcome: str
) -> None:
    """Also one that has failed by itself, or whose answer comes in the moment in which it is cancelled."""
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py", key="k", **options))
        request = await host.hear_spawn()
        answer = Response(request.request_id, to_json(info()))
        if outcome == "failed":
            answer = error_response(request.request_id, StartupFailedError("why", info=info(state=ProcessState.FAILED)))
        if is_late:
            worker.backend_processes.on_lifecycle(lambda _: spawning.scope.cancel())
            await host.end.sending.send(event(ProcessState.STARTING))
            await host.end.sending.send(answer)
        else:
            spawning.scope.cancel()
            await spawning.done.wait()
            assert await host.hears_nothing()
            await host.say(answer)
        stop = await host.hear()
        assert isinstance(stop, ProcessStop)
        assert (stop.process_id, stop.unwanted, stop.options) == ("p1", True, StopOptions())
        await host.answer(stop)
        assert await host.hears_nothing()


async def test_a_spawn_that_keeps_no_key_is_stopped_as_it_always_was() -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
        request = await host.hear_spawn()
        spawning.scope.cancel()
        await spawning.done.wait()
        await host.answer(request, to_json(info()))
        stop = await host.hear()
        assert isinstance(stop, ProcessStop)
        assert not stop.unwanted


async def test_a_release_is_asked_for_and_answered() -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        releasing = InBackground(nursery, lambda: worker.backend_processes.release_key("p1", user_id="ada"))
        request = await host.hear()
        assert isinstance(request, ProcessReleaseKey)
        assert (request.process_id, request.user_id) == ("p1", "ada")
        assert not releasing.done.is_set()
        await host.answer(request)
        assert releasing.done.is_set()
        assert releasing.error is None
        releasing = InBackground(nursery, lambda: worker.backend_processes.release_key("p1"))
        await host.refuse(await host.hear(), ProcessAccessError("not yours"))
        assert isinstance(releasing.error, ProcessAccessError)


async def test_a_stop_of_an_ended_process_by_its_handle_asks_nobody_and_by_its_id_the_host() -> None:
    """The host may keep the key of that process, which such a stop gives up."""
    async with with_process() as (worker, host, handle, nursery):
        await host.end_process(messages=1)  # so that it is not forgotten
        await handle.stop()
        assert await host.hears_nothing()
        stopping = InBackground(nursery, lambda: worker.backend_processes.stop("p1"))
        request = await host.hear()
        assert isinstance(request, ProcessStop)
        await host.answer(request)
        assert stopping.done.is_set()


async def test_a_stop_returns_when_the_process_is_gone() -> None:
    async with with_process() as (worker, host, _handle, nursery):
        stopping = InBackground(nursery, lambda: worker.backend_processes.stop("p1", reason="why"))
        request = await host.hear()
        assert isinstance(request, ProcessStop)
        assert request.options == StopOptions(reason="why")
        await host.say(event(ProcessState.STOPPING))
        await host.answer(request)
        assert not stopping.done.is_set()
        await host.end_process()
        assert stopping.done.is_set()
        assert stopping.error is None


async def test_a_stop_of_an_unknown_process_returns_when_it_is_answered() -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        stopping = InBackground(nursery, lambda: worker.backend_processes.stop("p9"))
        await host.answer(await host.hear())
        assert stopping.done.is_set()
        assert stopping.error is None


async def test_a_stop_of_another_users_process_raises() -> None:
    async with with_process() as (worker, host, _handle, nursery):
        stopping = InBackground(nursery, lambda: worker.backend_processes.stop("p1", user_id="eve"))
        await host.refuse(await host.hear(), ProcessAccessError("not yours"))
        assert isinstance(stopping.error, ProcessAccessError)


async def test_list_and_get_ask_the_host() -> None:
    async with with_process() as (worker, host, handle, nursery):
        getting = InBackground(nursery, lambda: worker.backend_processes.get("p9"))
        await host.answer(await host.hear(), None)
        assert getting.done.is_set()
        assert getting.value is None
        listing = InBackground(nursery, lambda: worker.backend_processes.list(kind="a.py"))
        request = await host.hear()
        assert isinstance(request, ProcessList)
        assert request.filter.kind == "a.py"
        await host.answer(request, [to_json(info()), to_json(info("p2"))])
        assert listing.value == [info(), info("p2")]
        refreshing = InBackground(nursery, handle.refresh)
        beaten = to_json(info()) | {"lastHeartbeatAt": "2026-03-01T12:00:05.000Z"}
        await host.answer(await host.hear(), beaten)
        assert isinstance(refreshing.value, ProcessInfo)
        assert handle.info.last_heartbeat_at == LATER


@pytest.mark.parametrize("result", [None, 5, {"processId": 5}, [5]])
async def test_an_answer_that_is_none_raises_at_its_caller(result: JsonValue) -> None:
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        calls = [
            InBackground(nursery, lambda: worker.backend_processes.spawn("a.py")),
            InBackground(nursery, worker.backend_processes.list),
        ]
        await host.answer(await host.hear(), result)
        await host.answer(await host.hear(), result)
        assert [type(call.error) for call in calls] == [PeerProtocolError, PeerProtocolError]


@pytest.mark.parametrize("field", [{"error": 5}, {"error": "full", "errorType": "ProcessLimitError", "limit": "many"}])
async def test_an_answer_that_cannot_be_read_is_raised_where_it_was_waited_for(field: dict[str, JsonValue]) -> None:
    """There is one answer to each request: a second wait would never end."""
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        listing = InBackground(nursery, worker.backend_processes.list)
        request = await host.hear()
        assert isinstance(request, ProcessList)
        await host.say({"type": "response", "requestId": request.request_id, **field})
        with trio.fail_after(5):
            await listing.done.wait()
        assert isinstance(listing.error, PeerProtocolError)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "nonsense", [None, 5, {}, {"type": "response"}, {"type": "dance"}, ProcessGet("r1", "p1"), Response("unasked")]
)
async def test_nonsense_from_the_host_is_logged_and_disturbs_nothing(
    nonsense: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "spindle_trio.worker_protocol"):
        async with with_process() as (worker, host, _handle, nursery):
            await host.say(nonsense)
            assert len(caplog.records) == 1
            getting = InBackground(nursery, lambda: worker.backend_processes.get("p9"))
            await host.answer(await host.hear(), None)
            assert getting.done.is_set()


async def test_a_message_that_is_no_json_is_logged_and_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Only a channel in memory can carry such a thing."""
    async with with_process() as (_, host, handle, _nursery):
        await host.say(ProcessMessage("p1", {1, 2}))  # type: ignore[arg-type]  # the mistake that is tested
        await host.say(ProcessMessage("p1", "good"))
        assert await handle.messages().receive() == "good"
    assert "process p1: a message from it is not JSON" in caplog.text


async def test_a_payload_that_may_not_travel_is_refused_before_anything_is_sent() -> None:
    unsafe: dict[str, object] = {"items": [1, {2}]}
    async with with_process(limits=Limits(frame_bytes=100)) as (worker, host, handle, _nursery):
        processes = worker.backend_processes
        for error in (
            await raised(lambda: processes.spawn("a.py", payload=unsafe)),
            await raised(lambda: processes.send("p1", unsafe)),
            await raised(lambda: handle.send(unsafe)),
        ):
            assert isinstance(error, PayloadError)
            assert str(error).startswith("payload.items[1]: set")
        with pytest.raises(PayloadError, match=r"payload\.items\[1\]"):
            handle.send_nowait(unsafe)
        assert isinstance(await raised(lambda: handle.send("x" * 200)), PayloadError)
        assert isinstance(await raised(lambda: processes.spawn("a.py", metadata=unsafe)), PayloadError)
        assert isinstance(await raised(lambda: processes.spawn("a.py", metadata=[])), PayloadError | TypeError)  # type: ignore[arg-type]
        assert await host.hears_nothing()


async def raised(call: Callable[[], object]) -> BaseException | None:
    try:
        await call()  # type: ignore[misc]  # each is an async function
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(
    ("notice", "kind"),
    [
        (ProcessSendFailed("p1", "no", "PayloadError", size=9, limit=8), PayloadError),
        (ProcessSendFailed("p1", "no", "ProcessAccessError"), ProcessAccessError),
        (ProcessSendFailed("p1", "no", "BrokenResourceError"), trio.BrokenResourceError),
        (ProcessSendFailed("p1", "no", "NewerError"), SpindleError),
    ],
    ids=lambda value: str(getattr(value, "error_type", "")),
)
async def test_a_message_that_was_not_delivered_is_logged_and_raised_by_the_next_send(
    notice: ProcessSendFailed, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async with with_process() as (worker, host, handle, _nursery):
        await host.say(ProcessSendFailed("p9", "nobody's"))
        for send in (handle.send, lambda payload: worker.backend_processes.send("p1", payload)):
            await host.say(notice)
            with pytest.raises(kind, match="an earlier message to process p1 was not delivered: no") as caught:
                await send("not sent")
            if isinstance(caught.value, PayloadError):
                assert (caught.value.size, caught.value.limit) == (9, 8)
        await host.say(notice)
        with pytest.raises(kind):
            handle.send_nowait("not sent")
        await handle.send("next")
        assert await host.hear() == ProcessSend("p1", "next")
    assert caplog.text.count("process p1: a message for it was not delivered: no") == 3


async def test_what_was_sent_is_as_it_was_when_it_was_sent() -> None:
    payload = {"items": [1]}
    async with with_process() as (_, host, handle, _nursery):
        await handle.send(payload)
        payload["items"].append(2)
        assert await host.hear() == ProcessSend("p1", {"items": [1]})


async def test_sending_to_a_process_that_has_ended_or_is_unknown_is_broken() -> None:
    async with with_process() as (worker, host, handle, _nursery):
        await host.end_process()
        with pytest.raises(trio.BrokenResourceError):
            await handle.send(1)
        with pytest.raises(trio.BrokenResourceError):
            handle.send_nowait(1)
        with pytest.raises(trio.BrokenResourceError):
            await worker.backend_processes.send("p1", 1)
        with pytest.raises(trio.BrokenResourceError):
            await worker.backend_processes.send("p9", 1)
        assert await host.hears_nothing()


async def test_sends_wait_for_the_connection_and_requests_overtake_them() -> None:
    async with with_process(buffer=0, limits=Limits(outbox_bytes=10)) as (worker, host, handle, nursery):
        await handle.send("first")  # is with the writer
        await trio.testing.wait_all_tasks_blocked()
        handle.send_nowait("second")  # waits in the lane
        with pytest.raises(trio.WouldBlock):
            handle.send_nowait("third")
        third = InBackground(nursery, lambda: worker.backend_processes.send("p1", "third", user_id="ada"))
        withdrawn = InBackground(nursery, lambda: handle.send("withdrawn"))
        stopping = InBackground(nursery, handle.stop)
        await trio.testing.wait_all_tasks_blocked()
        assert not third.done.is_set()
        withdrawn.scope.cancel()
        await withdrawn.done.wait()
        assert handle.statistics().outbox_messages == 1
        assert await host.hear() == ProcessSend("p1", "first")
        assert isinstance(await host.hear(), ProcessStop)
        assert await host.hear() == ProcessSend("p1", "second")
        assert await host.hear() == ProcessSend("p1", "third", "ada")
        assert not stopping.done.is_set()
        assert await host.hears_nothing()


async def test_a_lost_connection_breaks_what_waits_and_keeps_what_is_known() -> None:
    async with with_process() as (worker, host, handle, nursery):
        processes = worker.backend_processes
        events, messages, all_messages = processes.lifecycle_events(), handle.messages(), processes.messages()
        await host.say(ProcessMessage("p1", "last"), event(ProcessState.STOPPING))
        waiting = [
            InBackground(nursery, lambda: processes.spawn("b.py")),
            InBackground(nursery, lambda: processes.get("p1")),
            InBackground(nursery, lambda: processes.stop("p1")),
            InBackground(nursery, handle.wait_ended),
        ]
        await trio.testing.wait_all_tasks_blocked()
        await host.end.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert [type(call.error) for call in waiting] == [trio.BrokenResourceError] * 4
        for call in (processes.list, lambda: processes.spawn("b.py"), lambda: handle.send(1), handle.wait_ended):
            assert type(await raised(call)) is trio.BrokenResourceError
        with pytest.raises(trio.BrokenResourceError):
            handle.send_nowait(1)
        assert handle.state is ProcessState.STOPPING
        assert [heard.state async for heard in events] == [ProcessState.STOPPING]
        assert [message async for message in messages] == ["last"]
        assert [message.payload async for message in all_messages] == ["last"]
        assert handle.statistics().messages_received == 1


async def test_a_process_whose_end_was_heard_stays_ended_when_the_connection_is_lost() -> None:
    async with with_process() as (_, host, handle, _nursery):
        await host.end_process(messages=1, result=7)
        await host.end.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await handle.wait_ended()).state is ProcessState.COMPLETED
        assert handle.result == 7
        assert [message async for message in handle.messages()] == []  # the one that was to follow is lost


async def test_a_closed_worker_raises_and_its_handles_still_show_what_is_known() -> None:
    near, far = memory_ends()
    host = PlayedHost(far)
    async with trio.open_nursery() as nursery:
        async with connect_worker(near) as worker:
            spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
            await host.run(await host.hear_spawn())
            waiting = InBackground(nursery, lambda: worker.backend_processes.spawn("b.py"))
            await host.hear_spawn()
            handle = spawning.value
            assert isinstance(handle, ProcessHandle)
            await host.say(ProcessMessage("p1", "last"))
        processes = worker.backend_processes
        for call in (processes.list, lambda: processes.spawn("b.py"), lambda: processes.stop("p1")):
            assert type(await raised(call)) is trio.ClosedResourceError
        assert isinstance(await raised(lambda: handle.send(1)), trio.ClosedResourceError)
        assert isinstance(await raised(handle.wait_ended), trio.BrokenResourceError)
        assert handle.info == info()
        assert handle.statistics().inbox_messages == 1
        assert [message async for message in handle.messages()] == ["last"]
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(waiting.error, trio.BrokenResourceError)
        with pytest.raises(trio.EndOfChannel):
            await far.receive()


async def test_an_error_in_the_body_leaves_bare() -> None:
    near, _far = memory_ends(buffer=0)
    with pytest.raises(KeyError) as caught:
        async with connect_worker(near) as worker:
            with trio.move_on_after(0):
                await worker.backend_processes.list()  # so that the writer is sending
            raise KeyError("mine")
    assert caught.value.args == ("mine",)


async def test_leaving_by_cancellation_waits_for_nobody() -> None:
    near, far = memory_ends(buffer=0)
    with trio.move_on_after(0) as scope:
        async with connect_worker(near):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(trio.EndOfChannel):
        await far.receive()


async def test_a_request_that_is_too_long_for_the_channel_raises_at_its_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with connect_worker(StreamChannel(near, max_line_bytes=200)) as worker, StreamChannel(far) as host:
        with pytest.raises(PayloadError, match="more than 200 in one line"):
            await worker.backend_processes.spawn("a.py", payload="x" * 300)
        await host.send(event(ProcessState.STARTING))
        await trio.testing.wait_all_tasks_blocked()
        await worker.backend_processes.send("p1", "x" * 300)
        await worker.backend_processes.send("p1", "short")
        assert (await host.receive())["payload"] == "short"
        with pytest.raises(PayloadError, match=r"was not delivered: .* more than 200 in one line"):
            await worker.backend_processes.send("p1", "next")
    assert "process p1: a message for it was not delivered" in caplog.text


async def test_a_connection_that_takes_nothing_any_more_is_lost_though_it_still_speaks() -> None:
    near, far = memory_ends()
    async with connect_worker(near) as worker:
        await far.receiving.aclose()
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await worker.backend_processes.list()
        events = worker.backend_processes.lifecycle_events()
        await far.sending.send(event(ProcessState.STARTING))
        assert (await events.receive()).state is ProcessState.STARTING


async def test_records_of_ended_processes_are_let_go() -> None:
    """A worker that lives for weeks must not remember every process that it ever had."""
    async with connected() as (worker, host), trio.open_nursery() as nursery:
        inboxes = []
        for number in range(3):
            spawning = InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
            await host.run(await host.hear_spawn(), f"p{number}")
            assert isinstance(spawning.value, ProcessHandle)
            inboxes.append(weakref.ref(spawning.value))
            del spawning
            await host.say(ProcessMessage(f"p{number}", "x"))
            await host.end_process(f"p{number}", messages=1)
            await host.say(ProcessMessage(f"p{number}", "y"))
        InBackground(nursery, lambda: worker.backend_processes.spawn("a.py"))
        request = await host.hear_spawn()
        await host.start("p9")
        await host.end_process("p9")
        await host.refuse(request, StartupTimeoutError("why", info=info("p9")))
        port = worker._port
        assert not port._processes._by_id  # type: ignore[attr-defined]  # nothing else shows what is remembered
        assert not port._pending  # type: ignore[attr-defined]
        gc.collect()
        assert [reference() for reference in inboxes] == [None] * 3
