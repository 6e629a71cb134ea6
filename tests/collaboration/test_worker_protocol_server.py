"""The host's end of the worker protocol, message by message, with a host that does only what the test says."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from spindle_trio._errors import EntryError, PayloadError, ProcessAccessError
from spindle_trio._model import (
    ExitReason,
    JsonValue,
    Limits,
    ProcessGet,
    ProcessLifecycle,
    ProcessMessage,
    ProcessSend,
    ProcessSpawn,
    ProcessState,
    ProcessStop,
    Response,
    SpawnOptions,
    StopOptions,
)
from spindle_trio._worker_protocol import StreamChannel, serve_worker
from support.worker_protocol import FakeHost, MemoryEnd, memory_ends

AT = "2026-03-01T12:00:00.000Z"


class Peer:
    """The other end: says what the test says, and reads what it is told."""

    def __init__(self, end: MemoryEnd) -> None:
        self.end = end

    async def say(self, *values: object) -> None:
        for value in values:
            await self.end.sending.send(value)  # type: ignore[arg-type]  # nonsense is part of the tests
        await trio.testing.wait_all_tasks_blocked()

    async def hear(self, count: int) -> list[object]:
        heard: list[object] = []
        with trio.fail_after(5):
            await trio.lowlevel.checkpoint()
            while len(heard) < count:
                heard.append(await self.end.receive())
        return heard

    async def hear_all(self) -> list[object]:
        """Hear what there is to hear now."""
        await trio.testing.wait_all_tasks_blocked()
        heard: list[object] = []
        while True:
            try:
                heard.append(self.end.receiving.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return heard
            await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def served(
    host: FakeHost,
    buffer: float = float("inf"),
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
) -> AsyncIterator[Peer]:
    """Serve a worker in the background; leaving the block closes the connection and waits for the end."""
    near, far = memory_ends(buffer)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_worker(host.opened(), near, limits=limits)

        nursery.start_soon(serve)  # noqa: ASYNC113  # waited for in the next line
        await trio.testing.wait_all_tasks_blocked()
        yield Peer(far)
        await far.aclose()


def spawn(request_id: str, **options: object) -> dict[str, object]:
    return {"type": "backend_process_spawn", "requestId": request_id, "options": {"entry": "a.py", **options}}


def lifecycle(state: str, **fields: object) -> dict[str, object]:
    event = {"processId": "p1", "entry": "a.py", "kind": "a.py", "state": state, "at": AT}
    return {"type": "backend_process_lifecycle", "event": event | fields}


async def test_each_request_gets_one_answer_in_the_words_of_the_spec() -> None:
    host = FakeHost()
    host.ready.set()
    async with served(host) as peer:
        await peer.say(spawn("s1", payload=None))
        info = {
            "processId": "p1",
            "entry": "a.py",
            "kind": "a.py",
            "state": "running",
            "startedAt": AT,
            "readyAt": AT,
            "lastHeartbeatAt": AT,
        }
        assert await peer.hear(3) == [
            lifecycle("starting"),
            lifecycle("running", previousState="starting"),
            {"type": "response", "requestId": "s1", "result": info},
        ]
        listed = {"processId": "p1", "entry": "a.py", "kind": "a.py", "state": "running", "startedAt": AT}
        await peer.say({"type": "backend_process_list", "requestId": "l1"})
        assert await peer.hear(1) == [{"type": "response", "requestId": "l1", "result": [listed]}]
        await peer.say({"type": "backend_process_get", "requestId": "g1", "processId": "p1"})
        assert await peer.hear(1) == [{"type": "response", "requestId": "g1", "result": listed}]
        await peer.say({"type": "backend_process_get", "requestId": "g2", "processId": "unknown"})
        assert await peer.hear(1) == [{"type": "response", "requestId": "g2", "result": None}]
        await peer.say({"type": "backend_process_send", "processId": "p1", "payload": {"a": 1}})
        assert host.posted == [("p1", {"a": 1}, None)]
        await peer.say(
            {"type": "backend_process_stop", "requestId": "st1", "processId": "p1", "options": {"reason": "why"}}
        )
        assert await peer.hear(2) == [
            lifecycle("stopping", previousState="running"),
            {"type": "response", "requestId": "st1"},
        ]
        assert host.stopped == [("p1", StopOptions(reason="why"))]
        await peer.say({"type": "backend_process_stop", "requestId": "st2", "processId": "p1", "unwanted": True})
        assert (await peer.hear(2))[1] == {"type": "response", "requestId": "st2"}
        assert host.unwanted == [("p1", StopOptions())]
        await peer.say({"type": "backend_process_release_key", "requestId": "k1", "processId": "p1", "userId": "ada"})
        assert await peer.hear(1) == [{"type": "response", "requestId": "k1", "result": None}]
        assert host.released == [("p1", "ada")]


async def test_a_peer_that_speaks_in_values_is_answered_in_values() -> None:
    host = FakeHost()
    host.ready.set()
    async with served(host) as peer:
        await peer.say(ProcessSpawn("s1", SpawnOptions("a.py", startup_timeout=0.5)))
        *events, answer = await peer.hear(3)
        assert all(isinstance(event, ProcessLifecycle) for event in events)
        assert isinstance(answer, Response)
        assert host.spawned[0].startup_timeout == 0.5  # the bounds of the wire are not those of Python
        await peer.say(ProcessStop("st1", "p1"), ProcessGet("g1", "p9"), ProcessSend("p1", None, "ada"))
        assert (await peer.hear(3))[1:] == [Response("st1"), Response("g1")]
        host.say("p1", "hello")
        assert await peer.hear(1) == [ProcessMessage("p1", "hello", "ada")]
        await peer.say({"type": "backend_process_list", "requestId": "l1"})  # the latest request decides
        assert [type(answer) for answer in await peer.hear(1)] == [dict]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (spawn("r1", kind=5), "options.kind: expected a string, got a number"),
        (spawn("r1", metadata=None), "options.metadata: expected an object, got null"),
        ({"type": "backend_process_spawn", "requestId": "r1"}, "options: missing"),
        (
            {"type": "backend_process_get", "requestId": "r1", "processId": 5},
            "processId: expected a string, got a number",
        ),
        ({"type": "backend_process_dance", "requestId": "r1"}, "type: 'backend_process_dance' is unknown"),
        ({"requestId": "r1"}, "type: missing"),
    ],
)
async def test_a_malformed_request_with_an_id_gets_an_error_answer(request_: object, error: str) -> None:
    host = FakeHost()
    async with served(host) as peer:
        await peer.say(request_)
        assert await peer.hear(1) == [
            {"type": "response", "requestId": "r1", "error": error, "errorType": "PeerProtocolError"}
        ]
        await peer.say({"type": "backend_process_list", "requestId": "l1"})
        assert await peer.hear(1) == [{"type": "response", "requestId": "l1", "result": []}]
    assert not host.spawned


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        5,
        [],
        {},
        {"type": "backend_process_spawn", "requestId": 5, "options": {"entry": "a.py"}},
        {"type": "backend_process_send", "processId": "p1"},
        {"type": "backend_process_send", "processId": "p1", "payload": 1, "userId": None},
        Response("r1").result,
        SpawnOptions("a.py"),
    ],
    ids=repr,
)
async def test_nonsense_without_an_id_is_logged_and_disturbs_nothing(
    nonsense: object, caplog: pytest.LogCaptureFixture
) -> None:
    host = FakeHost()
    with caplog.at_level(logging.WARNING, "spindle_trio.worker_protocol"):
        async with served(host) as peer:
            await peer.say(nonsense)
            assert "cannot be answered" in caplog.text
            await peer.say({"type": "backend_process_list", "requestId": "l1"})
            assert await peer.hear(1) == [{"type": "response", "requestId": "l1", "result": []}]
    assert not host.posted


async def test_a_line_that_is_no_json_is_logged_and_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    near, far = trio.testing.memory_stream_pair()
    host = FakeHost()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_worker(host.opened(), StreamChannel(near), limits=Limits())

        nursery.start_soon(serve)
        await far.send_all(b'nonsense\n{"type": "backend_process_list", "requestId": "l1"}\n')
        assert await far.receive_some() == b'{"type":"response","requestId":"l1","result":[]}\n'
        await far.aclose()
    assert "sent an invalid line" in caplog.text


async def test_errors_of_the_host_are_answered_with_their_class() -> None:
    host = FakeHost()
    host.ready.set()
    host.refusal = EntryError("no such entry")
    async with served(host) as peer:
        await peer.say(spawn("s1"))
        assert (await peer.hear(2))[1] == {
            "type": "response",
            "requestId": "s1",
            "error": "no such entry",
            "errorType": "EntryError",
        }
        await peer.say(
            {"type": "backend_process_stop", "requestId": "st1", "processId": "p1", "options": {"userId": "eve"}}
        )
        assert await peer.hear(1) == [
            {"type": "response", "requestId": "st1", "error": "not yours", "errorType": "ProcessAccessError"}
        ]
        await peer.say({"type": "backend_process_release_key", "requestId": "k1", "processId": "p1", "userId": "eve"})
        assert await peer.hear(1) == [
            {"type": "response", "requestId": "k1", "error": "not yours", "errorType": "ProcessAccessError"}
        ]


async def test_the_answer_to_a_spawn_is_as_of_ready_whatever_has_happened_since() -> None:
    host = FakeHost()

    async with served(host) as peer:
        await peer.say(spawn("s1"))
        original = host.move

        def move_on(
            process_id: str, state: ProcessState, reason: ExitReason | None = None, result: JsonValue = None
        ) -> None:
            original(process_id, state, reason, result)
            if state is ProcessState.RUNNING:
                original(process_id, ProcessState.COMPLETED, ExitReason.COMPLETED)

        host.move = move_on  # type: ignore[method-assign]  # ends the process in the moment in which it is ready
        host.ready.set()
        heard = await peer.hear(4)
    answer = heard[3]
    assert isinstance(answer, dict)
    assert answer["result"]["state"] == "running"


async def test_requests_are_read_and_answered_while_a_spawn_waits() -> None:
    host = FakeHost()
    async with served(host) as peer:
        await peer.say(spawn("s1"), {"type": "backend_process_get", "requestId": "g1", "processId": "p9"})
        assert await peer.hear(2) == [lifecycle("starting"), {"type": "response", "requestId": "g1", "result": None}]
        host.ready.set()
        assert (await peer.hear(2))[1]["requestId"] == "s1"  # type: ignore[index]  # it is a dict


async def test_spawns_begin_in_the_order_in_which_they_were_asked_for() -> None:
    host = FakeHost()
    entries = [f"{number}.py" for number in range(50)]
    async with served(host) as peer:
        await peer.say(*(spawn(entry, entry=entry) for entry in entries))
        assert [options.entry for options in host.spawned] == entries


async def test_answers_and_events_go_out_before_messages() -> None:
    """With a connection that takes one thing at a time, a message that waits is overtaken by everything else."""
    host = FakeHost()
    host.ready.set()
    async with served(host, buffer=0) as peer:
        await peer.say(spawn("s1"))
        await peer.hear(3)
        host.say("p1", 1, 2, 3)
        await trio.testing.wait_all_tasks_blocked()
        host.move("p1", ProcessState.STOPPING)
        await peer.say({"type": "backend_process_get", "requestId": "g1", "processId": "p9"})
        heard = await peer.hear(5)
    kinds = [value["type"] for value in heard]  # type: ignore[index]  # they are dicts
    assert kinds == [
        "backend_process_message",  # was being sent already
        "backend_process_lifecycle",
        "response",
        "backend_process_message",
        "backend_process_message",
    ]
    assert [value["payload"] for value in heard if "payload" in value] == [1, 2, 3]  # type: ignore[index,operator]


async def test_a_terminal_event_says_how_many_messages_are_to_follow() -> None:
    host = FakeHost()
    host.ready.set()
    async with served(host, buffer=0) as peer:
        await peer.say(spawn("s1"))
        await peer.hear(3)
        host.say("p1", 1, 2, 3)
        await trio.testing.wait_all_tasks_blocked()
        host.move("p1", ProcessState.COMPLETED, ExitReason.COMPLETED, result="done")
        first, event, *others = await peer.hear(4)
    assert first["payload"] == 1  # type: ignore[index]  # it is a dict
    assert event == lifecycle("completed", previousState="running", exitReason="completed", result="done") | {
        "messages": 2
    }
    assert [message["payload"] for message in others] == [2, 3]  # type: ignore[index]  # they are dicts


async def test_messages_that_the_connection_does_not_take_wait_in_their_inbox() -> None:
    """So they hold up their own process, by the back-pressure that its inbox has."""
    host = FakeHost()
    host.ready.set()
    async with served(host, buffer=0) as peer:
        await peer.say(spawn("s1"))
        await peer.hear(3)
        for number in range(6):  # one is being sent, one waits in the lane, one is held by the puller
            host.say("p1", number)
            await trio.testing.wait_all_tasks_blocked()
        inbox = host.processes["p1"].inbox
        assert inbox.held == 3
        assert not inbox.room
        assert [message["payload"] for message in await peer.hear(6)] == [0, 1, 2, 3, 4, 5]  # type: ignore[index]
        assert inbox.room


async def test_a_connection_that_does_not_take_its_answers_is_closed(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    host = FakeHost()
    async with served(host, buffer=0, limits=Limits(lifecycle_events=5)) as peer:
        for number in range(6):  # one is being sent, and five wait
            await peer.say({"type": "backend_process_get", "requestId": str(number), "processId": "p1"})
        with trio.move_on_after(29):
            await peer.say({"type": "backend_process_get", "requestId": "7", "processId": "p1"})
        assert not host.unloaded
        await trio.sleep(2)
        assert host.unloaded
        with pytest.raises(trio.EndOfChannel):
            await peer.end.receive()
    assert "has read no answer for 30 s" in caplog.text


async def test_a_connection_that_takes_an_answer_now_and_then_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    host = FakeHost()
    async with served(host, buffer=0, limits=Limits(lifecycle_events=5)) as peer, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            for number in range(20):
                await peer.say({"type": "backend_process_get", "requestId": str(number), "processId": "p1"})

        for number in range(20):
            await trio.sleep(25)
            assert await peer.hear(1) == [{"type": "response", "requestId": str(number), "result": None}]
        assert not host.unloaded


@pytest.mark.slow
async def test_a_peer_that_reads_may_ask_for_more_at_once_than_may_wait(autojump_clock: trio.testing.MockClock) -> None:
    """Its requests wait until it has read; a stop and a message among them get through as it reads on."""
    host = FakeHost()
    host.start("p1")
    near, far = trio.testing.memory_stream_pair()
    get = b'{"type":"backend_process_get","requestId":"r%d","processId":"p1"}\n'
    gets = [get % number for number in range(6_000)]
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_worker(host.opened(), StreamChannel(near), limits=Limits(lifecycle_events=100))

        gets[3_000:3_000] = [
            b'{"type":"backend_process_stop","requestId":"stop","processId":"p1"}\n',
            b'{"type":"backend_process_send","processId":"p1","payload":1}\n',
        ]
        await far.send_all(b"".join(gets))
        nursery.start_soon(serve)
        peer, answered = StreamChannel(far), []
        while len(answered) < 6_001:
            heard = await peer.receive()
            if heard["type"] == "response":
                answered.append(heard["requestId"])
        assert sorted(answered) == sorted(["stop", *(f"r{number}" for number in range(6_000))])
        assert (len(host.stopped), len(host.posted)) == (1, 1)
        assert not host.unloaded
        await peer.aclose()


async def test_too_many_spawns_at_once_are_refused_and_other_requests_are_not() -> None:
    host = FakeHost()
    async with served(host, limits=Limits(lifecycle_events=5)) as peer:
        await peer.say(*(spawn(str(number)) for number in range(5)))
        await peer.hear(5)
        await peer.say(spawn("5"), {"type": "backend_process_get", "requestId": "g1", "processId": "p9"})
        refusal, answer = await peer.hear(2)
        assert refusal["requestId"] == "5"  # type: ignore[index]  # it is a dict
        assert refusal["errorType"] == "SpawnRefusedError"  # type: ignore[index]
        assert "5 spawns of this connection are waiting" in refusal["error"]  # type: ignore[index]
        assert answer["requestId"] == "g1"  # type: ignore[index]
        host.refusal = EntryError("no")
        host.ready.set()
        answers = await peer.hear(5)
        assert {answer["requestId"] for answer in answers} == set("01234")  # type: ignore[index]
        await peer.say(spawn("6"))
        assert (await peer.hear(2))[1]["errorType"] == "EntryError"  # type: ignore[index]


async def test_spawns_that_wait_are_bounded_in_what_they_take_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spindle_trio._worker_protocol._waiting_requests.MOST_BYTES", 100_000)
    host = FakeHost()
    async with served(host) as peer:
        await peer.say(spawn("0", payload="x" * 200_000))  # one alone may be of any size
        await peer.hear(1)
        await peer.say(spawn("0a", kind="x" * 10_000))
        (refusal,) = await peer.hear(1)
        assert refusal["errorType"] == "SpawnRefusedError"  # type: ignore[index]  # labels count, too
        await peer.say(spawn("1", payload="x"), spawn("2"))
        refusal, event = await peer.hear(2)
        assert refusal["requestId"] == "1"  # type: ignore[index]  # it is a dict
        assert refusal["errorType"] == "SpawnRefusedError"  # type: ignore[index]
        assert event["type"] == "backend_process_lifecycle"  # type: ignore[index]  # nothing is nothing
        host.refusal = EntryError("no")
        host.ready.set()
        await peer.hear(2)
        host.ready = trio.Event()
        await peer.say(spawn("3", metadata={"a": [[]] * 700}), spawn("4", metadata={"a": [[]] * 700}))
        kinds = {heard["type"] for heard in await peer.hear(2)}  # type: ignore[index]
        assert kinds == {"backend_process_lifecycle", "response"}


@pytest.mark.parametrize("depth", [20_000, 100_000])
async def test_a_request_that_the_parser_gives_up_on_is_answered_once(depth: int) -> None:
    near, far = trio.testing.memory_stream_pair()
    host = FakeHost()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_worker(host.opened(), StreamChannel(near, max_line_bytes=10**6), limits=Limits())

        nursery.start_soon(serve)
        peer = StreamChannel(far)
        deep, long = b"[" * depth + b"]" * depth, b"x" * 1_100_000
        await far.send_all(b'{"type":"backend_process_list","requestId":"deep","unknown":%b}\n' % deep)
        await far.send_all(b'{"type":"backend_process_list","unknown":%b,"requestId":"digits"}\n' % (b"9" * 5_000))
        await far.send_all(b'{"type":"backend_process_list","requestId":"long","unknown":"%b"}\n' % long)
        await far.send_all(b'{"type":"backend_process_list","requestId":"good"}\n')
        answers = [await peer.receive() for _ in range(4)]
        assert [answer["requestId"] for answer in answers] == ["deep", "digits", "long", "good"]
        assert [answer.get("errorType") for answer in answers] == ["PeerProtocolError"] * 3 + [None]
        await peer.aclose()


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (PayloadError("too large", size=9, limit=8), {"errorType": "PayloadError", "size": 9, "limit": 8}),
        (ProcessAccessError("too large"), {"errorType": "ProcessAccessError"}),
        (trio.BrokenResourceError("too large"), {"errorType": "BrokenResourceError"}),
    ],
    ids=["too large", "another user", "ended"],
)
async def test_a_message_that_does_not_reach_its_process_is_told_to_its_sender(
    refusal: Exception, said: dict[str, object]
) -> None:
    host = FakeHost()
    host.post_refusal = refusal
    async with served(host) as peer:
        await peer.say({"type": "backend_process_send", "processId": "p1", "payload": 1})
        notice = {"type": "backend_process_send_failed", "processId": "p1", "error": "too large"}
        assert await peer.hear(1) == [notice | said]


async def test_losing_the_connection_is_an_unload() -> None:
    host = FakeHost()
    async with served(host) as peer:
        await peer.say(spawn("s1"))
        assert not host.unloaded
    assert host.unloaded
    assert host.processes["p1"].info.state is ProcessState.STOPPED  # and was not cancelled before


async def test_a_half_closed_connection_still_hears_how_its_processes_ended() -> None:
    host = FakeHost()
    async with served(host) as peer:
        await peer.say(spawn("s1"))
        await peer.hear(1)
        await peer.end.sending.aclose()
        heard = await peer.hear_all()
    assert lifecycle("stopped", previousState="starting", exitReason="backend_unloaded") in heard


async def test_what_was_asked_right_before_a_half_close_is_answered() -> None:
    class SlowHost(FakeHost):
        async def get(self, process_id: str) -> None:
            await trio.testing.wait_all_tasks_blocked()

    async with served(SlowHost()) as peer:
        peer.end.sending.send_nowait({"type": "backend_process_get", "requestId": "g1", "processId": "p1"})
        peer.end.sending.close()
        assert await peer.hear(1) == [{"type": "response", "requestId": "g1", "result": None}]
        with pytest.raises(trio.EndOfChannel):
            await peer.end.receive()


async def test_a_worker_that_is_closed_from_above_ends_the_serving_after_its_last_events() -> None:
    host = FakeHost()
    async with served(host) as peer:
        await peer.say(spawn("s1"))
        host.unload()
        heard = await peer.hear(3)
        assert lifecycle("stopped", previousState="starting", exitReason="backend_unloaded") in heard
        with pytest.raises(trio.EndOfChannel):
            await peer.end.receive()


async def test_a_cancelled_serving_unloads_and_says_so() -> None:
    near, far = memory_ends()
    host = FakeHost()
    host.ready.set()
    peer = Peer(far)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_worker(host.opened(), near, limits=Limits())

        nursery.start_soon(serve)
        await peer.say(spawn("s1"))
        await peer.hear(3)
        nursery.cancel_scope.cancel()
    assert host.unloaded
    assert await peer.hear(1) == [lifecycle("stopped", previousState="running", exitReason="backend_unloaded")]
    with pytest.raises(trio.EndOfChannel):
        await far.receive()


async def test_a_peer_that_does_not_listen_holds_up_a_cancelled_serving_for_half_a_second_at_most(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = memory_ends(buffer=0)
    host = FakeHost()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_worker(host.opened(), near, limits=Limits())

        nursery.start_soon(serve)
        await Peer(far).say(spawn("s1"))
        nursery.cancel_scope.cancel()
        before = trio.current_time()
    assert trio.current_time() - before == 0.5


async def test_a_worker_that_cannot_be_opened_is_the_callers_error_and_the_channel_is_closed() -> None:
    near, far = memory_ends()

    @asynccontextmanager
    async def refusing() -> AsyncIterator[FakeHost]:
        raise ValueError("no such folder")
        yield FakeHost()

    with pytest.raises(ValueError, match="no such folder"):
        await serve_worker(refusing(), near, limits=Limits())
    with pytest.raises(trio.EndOfChannel):
        await far.receive()


async def test_an_answer_that_is_too_long_for_the_channel_becomes_an_error() -> None:
    near, far = trio.testing.memory_stream_pair()
    host = FakeHost()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_worker(host.opened(), StreamChannel(near, max_line_bytes=200), limits=Limits())

        nursery.start_soon(serve)
        for number in range(5):
            host.start(f"p{number}")
        peer = StreamChannel(far)
        await peer.send({"type": "backend_process_list", "requestId": "l1"})
        while (heard := await peer.receive())["type"] != "response":
            pass
        assert heard["errorType"] == "PayloadError"
        host.say("p1", "x" * 300, "short")  # a message that is too long is dropped
        assert (await peer.receive())["payload"] == "short"
        host.start("p" * 300)  # without an event, the other end would not know what it speaks to
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()
    assert host.unloaded


async def test_a_broken_channel_unloads() -> None:
    class Broken(MemoryEnd):
        async def send(self, value: object) -> None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError

    near, far = memory_ends()
    host = FakeHost()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                await serve_worker(host.opened(), Broken(near.sending, near.receiving), limits=Limits())

            nursery.start_soon(serve)
            await Peer(far).say({"type": "backend_process_list", "requestId": "l1"})
    assert host.unloaded
