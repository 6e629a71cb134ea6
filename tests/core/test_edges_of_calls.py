"""Edges of calls and bytes that need no process."""

from __future__ import annotations

import math

import pytest
import trio

from spindle_trio._errors import PayloadError, PeerProtocolError
from spindle_trio._model import Limits
from spindle_trio._protocol._control_frames import parse_child_frame
from spindle_trio._protocol._outbox import _Queue
from spindle_trio._protocol._payload import BinaryWalk, LentBytes, bounds_of, check_payload
from spindle_trio.abc import ExitStatus, LaunchedProcess
from spindle_trio.testing import MemoryLauncher
from spindle_trio.wire import parse_request

BOUNDS = bounds_of(Limits())


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"ready","protocol":3}',
        b'{"type":"ready","protocol":2,"calls":1}',
        b'{"type":"ready","protocol":2,"bytes":1}',
        b'{"type":"ready","protocol":2,"calls":true,"concurrency":0}',
    ],
)
def test_a_wrong_ready_breaks_the_protocol(body: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        parse_child_frame(body, BOUNDS)


def test_a_request_for_a_call_names_a_method_and_what_becomes_of_the_process() -> None:
    request = {"type": "backend_process_call", "requestId": "r", "processId": "p", "method": "m", "payload": 1}
    for overrun in ("leave", "kill"):
        parse_request(request | {"overrun": overrun})
    for wrong in ({"method": ""}, {"overrun": "maybe"}):
        with pytest.raises(PeerProtocolError):
            parse_request(request | wrong)


def test_bytes_are_lent_and_other_values_refused() -> None:
    check_payload([LentBytes(memoryview(b"abc")), b"", bytearray(2)], BOUNDS, "payload", BinaryWalk)
    with pytest.raises(PayloadError):
        check_payload([object()], BOUNDS, "payload", BinaryWalk)


class Bare(LaunchedProcess):
    def last_heartbeat(self) -> float:
        return -math.inf

    def request_stop(self) -> None: ...

    def kill(self) -> None: ...

    def has_exited(self) -> bool:
        return True

    async def wait(self) -> ExitStatus:
        return ExitStatus()


def test_a_launcher_of_protocol_1_has_no_lane_for_calls() -> None:
    assert Bare().calls is None


class Whole:
    size = 7


def test_frames_before_one_with_bytes_leave_first() -> None:
    queue = _Queue()
    queue.frames.extend([b"a", b"b", Whole()])  # type: ignore[list-item]
    queue.size, queue.binaries = 9, 1
    assert queue.take_run() == [b"a", b"b"]
    assert queue.size == 7
    assert isinstance(queue.take_run(), Whole)
    assert (queue.size, queue.binaries) == (0, 0)


async def test_a_reader_that_comes_after_the_time_hears_that_at_once(autojump_clock: trio.testing.MockClock) -> None:
    import spindle_trio as spindle

    async def entry(process: object) -> None:
        async def rows(_: object):  # type: ignore[no-untyped-def]
            while True:
                await trio.sleep(10)
                yield 1

        process.on_call("rows", rows)  # type: ignore[attr-defined]
        process.ready()  # type: ignore[attr-defined]
        await trio.sleep_forever()

    launcher = MemoryLauncher({"a.py": entry})
    async with spindle.open_host(launcher=launcher) as host, host.open_worker("w", user_id="u") as worker:
        handle = await worker.backend_processes.spawn("a.py", heartbeat_timeout=math.inf)
        async with handle.stream("rows", timeout=1) as items:
            autojump_clock.jump(1)
            with pytest.raises(spindle.CallTimeoutError):
                items.receive_nowait()
        await handle.kill()
