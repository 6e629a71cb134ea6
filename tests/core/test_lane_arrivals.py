"""How a lane tells of arrivals, so that nobody has to wait on it for what may never come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from spindle_trio.abc import FrameLane
from spindle_trio.testing import MemoryLane, memory_lane_pair


class WaitsOnly(FrameLane):
    """A lane that learns of frames by waiting alone, as one over a socket does."""

    async def receive(self, max_frames: int) -> list[bytes]:
        raise NotImplementedError

    def receive_nowait(self, max_frames: int) -> list[bytes]:
        raise NotImplementedError

    def send_nowait(self, body: bytes) -> bool:
        raise NotImplementedError

    async def send_pending(self, bodies: Sequence[bytes] = ()) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Heard:
    """Counts what it is told, and sees that nothing is received meanwhile."""

    def __init__(self) -> None:
        self.lanes: list[FrameLane] = []

    def arrived(self, lane: FrameLane) -> None:
        self.lanes.append(lane)


@pytest.fixture
def ends() -> tuple[MemoryLane, MemoryLane]:
    return memory_lane_pair(None, buffer_frames=2)


def test_a_lane_that_cannot_tell_says_so() -> None:
    heard = Heard()
    assert not WaitsOnly().tell_arrival(heard)
    assert heard.lanes == []


async def test_a_listener_is_told_once(ends: tuple[MemoryLane, MemoryLane]) -> None:
    host, child = ends
    heard = Heard()
    assert host.tell_arrival(heard)
    assert heard.lanes == []
    child.send_nowait(b"a")
    child.send_nowait(b"b")
    assert heard.lanes == [host]
    assert host.receive_nowait(10) == [b"a", b"b"]


async def test_a_listener_is_told_at_once_of_what_is_there(ends: tuple[MemoryLane, MemoryLane]) -> None:
    """So nothing is lost between a look that found nothing and the request to announce the next arrival."""
    host, child = ends
    child.send_nowait(b"a")
    heard = Heard()
    assert host.tell_arrival(heard)
    assert heard.lanes == [host]


async def test_a_listener_is_told_of_the_end(ends: tuple[MemoryLane, MemoryLane]) -> None:
    host, child = ends
    heard = Heard()
    host.tell_arrival(heard)
    child.close()
    host.tell_arrival(heard)
    assert heard.lanes == [host, host]
    with pytest.raises(trio.EndOfChannel):
        host.receive_nowait(1)


async def test_whoever_closes_a_lane_is_told_nothing_more(ends: tuple[MemoryLane, MemoryLane]) -> None:
    host, child = ends
    heard = Heard()
    host.tell_arrival(heard)
    host.close()
    with pytest.raises(trio.BrokenResourceError):
        child.send_nowait(b"a")
    child.close()
    assert heard.lanes == []


async def test_what_is_under_way_can_be_told_from_outside(ends: tuple[MemoryLane, MemoryLane]) -> None:
    host, child = ends
    assert repr(host) == "<MemoryLane 0 frames in, 0 out>"
    child.send_nowait(b"a")
    assert repr(host) == "<MemoryLane 1 frames in, 0 out>"
    child.send_nowait(b"b")
    assert repr(child) == "<MemoryLane 0 frames in, 2 out>"
