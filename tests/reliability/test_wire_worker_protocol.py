"""Mutated lines of the worker protocol: an error answer or a log record, and the connection stays."""

from __future__ import annotations

import json
import logging
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from spindle_trio import (
    PeerProtocolError,
    ProcessCallCancel,
    ProcessCallCredit,
    ProcessHandle,
    ProcessInfo,
    ProcessSend,
    ProcessState,
    SpindleError,
    StreamChannel,
    Worker,
    connect_worker,
    open_host,
)
from spindle_trio._worker_protocol._lines import find_request_id
from spindle_trio.testing import MemoryLauncher
from spindle_trio.wire import parse_notice, parse_request, request_id_of
from support.wire import Damage

NUMBERS = [60, pytest.param(600, marks=pytest.mark.slow), pytest.param(6_000, marks=pytest.mark.soak)]
"""How many rounds are played: quickly, in the ordinary run, and in the soak."""
UNANSWERED = ProcessSend, ProcessCallCancel, ProcessCallCredit
PAGE = Path(__file__).parents[2] / "notes" / "protocol.md"


def lines_of_the_page(*kinds: str) -> list[bytes]:
    """Take the messages that the protocol's page shows, each as its line."""
    shown = re.findall(r"^```(\S.*)\n((?:(?!```).*\n)*)```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [line.encode() for kind, block in shown if kind in kinds for line in block.splitlines()]


REQUESTS = lines_of_the_page("json request", "refused-request")
REQUESTS += [line for line in lines_of_the_page("json request") if b"process_call" in line] * 4

SPAWN = b'{"type":"backend_process_spawn","requestId":"r1","options":{"entry":"dist/indexer.py","userId":"ada"}}'
_ABOUT = '"processId":"p1","entry":"dist/indexer.py","kind":"indexer"'
_AT = "2026-03-01T12:00:00.000Z"
NOTICES = [
    *lines_of_the_page("json notice"),
    # A process that lives: what the page leaves to the reader, and what its messages need.
    f'{{"type":"backend_process_lifecycle","event":{{{_ABOUT},"state":"starting","at":"{_AT}"}}}}'.encode(),
    f'{{"type":"backend_process_lifecycle","event":{{{_ABOUT},"state":"running","at":"{_AT}"}}}}'.encode(),
    f'{{"type":"response","requestId":"r1","result":{{{_ABOUT},"state":"running","startedAt":"{_AT}"}}}}'.encode(),
    f'{{"type":"response","requestId":"r1","result":[{{{_ABOUT},"state":"running","startedAt":"{_AT}"}}]}}'.encode(),
    b'{"type":"backend_process_message","processId":"p1","payload":[[[[[]]]]]}',
    b'{"type":"backend_process_message","processId":"p1","payload":"\\ud800"}',
]


def damaged(random_: random.Random, real: list[bytes], other: list[bytes]) -> list[bytes]:
    """Make some lines of a few real ones. An end of line within one only makes two of it."""
    return [body for line in Damage(random_, real, other).bodies(8) for body in line.split(b"\n")]


def object_in(line: bytes) -> dict[str, Any] | None:
    """Read a line with the standard library."""
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def gives_up(line: bytes) -> bool:
    """Whether the parser gives up on a line: that is an answer too, if the line has a request's id."""
    try:
        json.loads(line.decode())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    except (ValueError, RecursionError):
        return True
    return False


@pytest.mark.parametrize("seeds", [600, pytest.param(5_000, marks=pytest.mark.slow)])
def test_a_mutated_line_is_a_message_or_a_breach_of_the_protocol(seeds: int) -> None:
    """Both ends' parsers, without a connection around them: so a good many lines."""
    found = Counter[str]()
    for seed in range(seeds):
        for real, other, parse in ((REQUESTS, NOTICES, parse_request), (NOTICES, REQUESTS, parse_notice)):
            for line in damaged(random.Random(seed), real, other):
                try:
                    parse(object_in(line))  # type: ignore[operator]  # either
                    found["taken in"] += 1
                except PeerProtocolError as error:
                    assert 0 < len(str(error)) < 10_000, f"seed {seed}: {line[:3_000]!r}"
                    str(error).encode()
                    found["refused"] += 1
                except Exception as error:
                    raise AssertionError(f"seed {seed}: {error!r} for {line[:3_000]!r}") from error
    assert min(found.values()) > seeds, found


async def child(process: Any) -> None:
    @process.on_call
    def square(payload: Any) -> object:
        return payload["n"] ** 2

    @process.on_call
    async def index(payload: object) -> AsyncIterator[object]:
        for number in range(5):
            yield {"number": number, "of": payload}

    process.ready()
    async for payload in process.messages():
        await process.send(payload)


@pytest.mark.parametrize("batches", NUMBERS)
async def test_each_mutated_request_is_answered_once_and_the_connection_stays(
    batches: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "spindle_trio")
    near, far = trio.testing.memory_stream_pair()
    owed, answered, outcomes = Counter[str](), Counter[str](), Counter[str]()
    live: list[str] = []
    launcher = MemoryLauncher({"dist/indexer.py": child})
    async with open_host(launcher, max_processes=3) as host, trio.open_nursery() as nursery:
        nursery.start_soon(host.serve_worker, StreamChannel(near), "tests")
        heard = StreamChannel(far)

        async def hear_until(is_over: Callable[[], bool]) -> None:
            with trio.fail_after(1_000):
                while not is_over():
                    said = await heard.receive()
                    if said["type"] == "response":
                        answered[str(said["requestId"])] += 1
                        outcomes[str(said.get("errorType", "answered"))] += 1
                        if str(said["requestId"]).startswith("alive"):
                            live[:] = [info["processId"] for info in said["result"]]  # type: ignore[index,union-attr]
                    elif said["type"] == "backend_process_call_item":
                        outcomes["items"] += 1
                        credit = {"type": "backend_process_call_credit", "requestId": said["requestId"], "items": 1}
                        await heard.send(credit)

        for seed in range(batches):
            random_ = random.Random(seed)
            # Much is said of a process that lives, so that calls reach it.
            process = random_.choice(live or ["p1"]).encode()
            lines = damaged(random_, [line.replace(b'"p1"', b'"%b"' % process) for line in REQUESTS], NOTICES)
            if not live:
                lines.insert(0, SPAWN)
            for line in lines:
                owed.update(answers_to(line))
            alive = f"alive after {seed}"
            await far.send_all(
                b"\n".join(lines) + b'\n{"type":"backend_process_list","requestId":"%b"}\n' % alive.encode()
            )
            try:
                await hear_until(lambda: bool(answered[alive]))  # noqa: B023  # used at once
                refuse_errors(caplog)
            except Exception as error:
                raise AssertionError(f"{error!r} after the lines of seed {seed}: {lines!r}"[:5_000]) from error
        with trio.move_on_after(1_000):
            await hear_until(lambda: all(answered[request] >= count for request, count in owed.items()))
        await heard.aclose()
    assert {request: count for request, count in answered.items() if not request.startswith("alive")} == owed
    assert owed.total() > batches
    # Calls are among them, and those that reach a process are answered by it.
    assert outcomes["items"] > batches / 40, outcomes
    assert outcomes["ProcessLostError"] >= batches // 200, outcomes  # rare: only a few of many kinds of request do that
    assert not launcher.complaints


async def test_an_answer_that_quotes_more_than_a_line_holds_is_shortened(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A received line is up to five times as long once it is quoted; that used to end the connection."""
    near, far = trio.testing.memory_stream_pair()
    async with open_host(MemoryLauncher({"child": child})) as host, trio.open_nursery() as nursery:
        nursery.start_soon(host.serve_worker, StreamChannel(near), "tests")
        peer = StreamChannel(far)
        for number, entry in enumerate(["\x7f" * 1_200_000, "other"]):
            options = {"entry": entry, "userId": "ada"}
            await peer.send({"type": "backend_process_spawn", "requestId": f"r{number}", "options": options})
            answer = await peer.receive()
            assert (answer["requestId"], answer["errorType"]) == (f"r{number}", "EntryError")
            assert str(answer["error"]).startswith("there is no entry '")
            assert len(str(answer["error"])) <= 200
        await peer.aclose()
    refuse_errors(caplog)


def answers_to(line: bytes) -> list[str]:
    """Name the request that a line asks to be answered, if it does: whatever has an id, but for a good message."""
    said = object_in(line)
    request_id = request_id_of(said)
    if said is None and gives_up(line) and (found := find_request_id(line)) is not None:
        return [found]
    if request_id is None:
        return []
    try:
        return [] if isinstance(parse_request(said), UNANSWERED) else [request_id]
    except PeerProtocolError:
        return [request_id]


@pytest.mark.parametrize("rounds", NUMBERS)
async def test_a_host_that_says_mutated_things_disturbs_no_worker_and_no_other_answer(
    rounds: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "spindle_trio")
    near, far = trio.testing.memory_stream_pair()
    heard = StreamChannel(far)
    outcomes = Counter[str]()
    async with connect_worker(StreamChannel(near)) as worker:
        worker.backend_processes.on_lifecycle(lambda event: outcomes.update([event.state]))
        worker.backend_processes.on_message(lambda message: outcomes.update(["message"]))
        for seed in range(rounds):
            random_ = random.Random(seed)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, random_.choice(QUESTIONS), worker, outcomes)
                    request = await heard.receive()
                    own = [
                        re.sub(rb'"[rc][0-9]"', b'"%b"' % str(request["requestId"]).encode(), line) for line in NOTICES
                    ]
                    await far.send_all(b"\n".join([*damaged(random_, own, REQUESTS), b""]))
                    # It may have been answered by one of those; if not, this is the answer.
                    last = {"type": "response", "requestId": request["requestId"], "error": "no", "errorType": "odd"}
                    await heard.send(last)
                # And the next answer is taken as it is.
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(hear_of_nobody, worker)
                    while (request := await heard.receive())["type"] != "backend_process_list":
                        pass  # a stop for the process of a cancelled spawn
                    await heard.send({"type": "response", "requestId": request["requestId"], "result": []})
                refuse_errors(caplog)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
        await heard.aclose()
    # There was some of everything, in proportion to the rounds.
    assert min(outcomes["answered"], outcomes["SpindleError"], outcomes["PeerProtocolError"]) > rounds / 60, outcomes
    assert min(outcomes["message"], outcomes["running"], outcomes["completed"]) > rounds / 60, outcomes


async def hear_of_nobody(worker: Worker) -> None:
    with trio.fail_after(1_000):
        assert await worker.backend_processes.list() == []


async def ask(question: Callable[[Worker], Awaitable[object]], worker: Worker, outcomes: Counter[str]) -> None:
    """Ask for something: the answer is what it should be, or one of the library's errors."""
    with trio.fail_after(1_000):
        try:
            await question(worker)
        except SpindleError as error:
            outcomes[type(error).__name__] += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            outcomes["Trio's errors"] += 1  # what a host says whose worker is being closed
        else:
            outcomes["answered"] += 1


async def call(worker: Worker) -> None:
    info = ProcessInfo("p1", "dist/indexer.py", "indexer", ProcessState.RUNNING, datetime.fromisoformat(_AT))
    port: Any = worker._port
    await ProcessHandle(port, port._make_process(info)).call("square", {"n": 3})


async def read(worker: Worker) -> None:
    info = ProcessInfo("p1", "dist/indexer.py", "indexer", ProcessState.RUNNING, datetime.fromisoformat(_AT))
    port: Any = worker._port
    async with ProcessHandle(port, port._make_process(info)).stream("index", window=2) as items:
        async for _ in items:
            pass


QUESTIONS: list[Callable[[Worker], Awaitable[object]]] = [
    lambda worker: worker.backend_processes.spawn("dist/indexer.py", user_id="ada"),
    lambda worker: worker.backend_processes.list(),
    lambda worker: worker.backend_processes.get("p1"),
    call,
    read,
]


def refuse_errors(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that the other end sends is this end's error."""
    for record in caplog.records:
        assert record.levelno < logging.ERROR, record.getMessage()
    caplog.clear()
