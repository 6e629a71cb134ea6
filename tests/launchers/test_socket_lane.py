"""A lane over a socket, with the test at the other end of it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from spindle_trio._errors import PeerProtocolError
from spindle_trio._protocol._frames import READ_BYTES, FrameDecoder, with_header
from spindle_trio._protocol._socket_lane import SocketLane


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    there.setblocking(False)
    with here, there:
        yield here, there


@pytest.fixture
def peer(sockets: tuple[socket.socket, socket.socket]) -> socket.socket:
    return sockets[1]


@pytest.fixture
async def lane(sockets: tuple[socket.socket, socket.socket]) -> AsyncIterator[SocketLane]:
    lane = SocketLane(sockets[0], max_bytes=100_000, frame_seconds=0.2)
    yield lane
    lane.close()


async def test_frames_of_one_read_come_together_and_the_rest_without_another_read(
    lane: SocketLane, peer: socket.socket
) -> None:
    peer.send(b"".join(with_header(b"%d" % number) for number in range(5)))
    assert await lane.receive(2) == [b"0", b"1"]
    peer.close()
    assert await lane.receive(10) == [b"2", b"3", b"4"]
    with pytest.raises(trio.EndOfChannel):
        await lane.receive(10)
    with pytest.raises(trio.EndOfChannel):
        lane.receive_nowait(10)


async def test_receive_reads_at_most_once_and_is_a_checkpoint_each_time(lane: SocketLane, peer: socket.socket) -> None:
    """Reading until nothing is left would let one flooding child starve the others (reliability, row 21)."""
    frame = with_header(b"x" * 100)
    peer.send(frame * 1_500)
    with trio.testing.assert_checkpoints():
        first = await lane.receive(10_000)
    assert len(first) == READ_BYTES // len(frame)
    with trio.testing.assert_checkpoints():
        assert len(await lane.receive(100)) == 100
    with trio.testing.assert_no_checkpoints():
        assert lane.receive_nowait(1) == [b"x" * 100]


async def test_a_cancelled_receive_loses_nothing(lane: SocketLane, peer: socket.socket) -> None:
    with trio.move_on_after(0) as scope:
        await lane.receive(1)
    assert scope.cancelled_caught
    peer.send(with_header(b"kept"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await lane.receive(1)
    assert scope.cancelled_caught
    assert await lane.receive(1) == [b"kept"]


async def test_receive_nowait_says_that_there_is_nothing_whole(lane: SocketLane, peer: socket.socket) -> None:
    with pytest.raises(trio.WouldBlock):
        lane.receive_nowait(1)
    peer.send(with_header(b"half")[:6])
    with pytest.raises(trio.WouldBlock):
        lane.receive_nowait(1)
    peer.send(with_header(b"half")[6:])
    assert lane.receive_nowait(1) == [b"half"]


async def test_receive_nowait_reads_until_a_frame_that_is_longer_than_one_read_is_whole(
    lane: SocketLane, peer: socket.socket
) -> None:
    """A look at a deadline or after an exit is the last one: half a frame would be a lost frame."""
    body = b"x" * (READ_BYTES + READ_BYTES // 2)
    peer.send(with_header(body) + with_header(b"next"))
    assert lane.receive_nowait(10) == [body, b"next"]
    with pytest.raises(trio.WouldBlock):
        lane.receive_nowait(10)
    peer.send(with_header(body)[:-1])
    with pytest.raises(trio.WouldBlock):
        lane.receive_nowait(10)
    peer.send(b"x")
    assert lane.receive_nowait(10) == [body]


async def test_bytes_that_somebody_has_read_already_come_first(sockets: tuple[socket.socket, socket.socket]) -> None:
    decoder = FrameDecoder(None)
    decoder.feed(with_header(b"early") + with_header(b"late")[:5])
    lane = SocketLane(sockets[0], max_bytes=None, decoder=decoder)
    sockets[1].send(with_header(b"late")[5:])
    assert await lane.receive(9) == [b"early"]
    assert await lane.receive(9) == [b"late"]
    lane.close()


async def test_a_peer_that_dies_with_unread_data_is_at_an_end_after_its_own_data(
    lane: SocketLane, peer: socket.socket
) -> None:
    """The system reports ECONNRESET then, to the reader and to the writer."""
    lane.send_nowait(b"never read")
    peer.send(with_header(b"last words"))
    peer.close()
    assert await lane.receive(9) == [b"last words"]
    with pytest.raises(trio.EndOfChannel):
        await lane.receive(9)
    with pytest.raises(trio.BrokenResourceError):
        lane.send_nowait(b"?")
    with pytest.raises(trio.BrokenResourceError):
        await lane.send_pending([b"?"])


async def test_a_frame_that_is_announced_as_too_long_breaks_the_protocol_for_good(
    lane: SocketLane, peer: socket.socket
) -> None:
    peer.send(with_header(b"fine") + (4 << 30).to_bytes(5, "big")[1:] + b"\xff\xff\xff\xff")
    peer.send(b"\xff\xff\xff\xff")
    assert await lane.receive(1) == [b"fine"]
    peer.send(with_header(b"later"))
    assert await lane.receive(1) == [b""]
    for _ in range(2):
        with pytest.raises(PeerProtocolError, match="a frame of 4294967295 bytes, more than 100000"):
            await lane.receive(1)
        with pytest.raises(PeerProtocolError, match="a frame of 4294967295 bytes"):
            lane.receive_nowait(1)


async def test_a_frame_that_comes_a_byte_at_a_time_is_given_up_at_its_deadline(
    lane: SocketLane, peer: socket.socket
) -> None:
    """Each byte ends a wait; all of them together still count (reliability, row 20)."""
    frame = with_header(b"x" * 1_000)
    begin = trio.current_time()

    async def drip() -> None:
        for position in range(len(frame)):
            peer.send(frame[position : position + 1])
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(PeerProtocolError, match=r"a frame was incomplete 0\.2 s after it had begun"):
            await lane.receive(1)
        nursery.cancel_scope.cancel()
    assert 0.15 < trio.current_time() - begin < 2
    with pytest.raises(PeerProtocolError, match="incomplete"):
        await lane.receive(1)


@pytest.mark.slow
async def test_only_waiting_counts_against_the_frame_deadline(lane: SocketLane, peer: socket.socket) -> None:
    """While the host does not read, for whatever reason, no child is late (rules 7 and 8)."""
    frame = with_header(b"x" * 90_000)
    peer.send(frame[:10])
    for _ in range(3):
        with trio.move_on_after(0.05):
            await lane.receive(1)
        await trio.sleep(0.2)
    peer.send(frame[10:])
    assert await lane.receive(1) == [b"x" * 90_000]


async def test_a_stall_of_the_host_while_it_waits_is_not_counted_in_full(
    lane: SocketLane, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = with_header(b"x" * 90_000)
    peer.send(frame[:10])
    stalled = False

    class Stall(trio.abc.Instrument):
        def after_io_wait(self, timeout: float) -> None:
            nonlocal stalled
            if not stalled and lane._decoder.is_mid_frame:
                stalled = True
                begin = trio.current_time()
                while trio.current_time() - begin < 0.5:
                    pass
                peer.send(frame[10:])

    trio.lowlevel.add_instrument(Stall())
    assert await lane.receive(1) == [b"x" * 90_000]
    assert stalled


async def test_at_the_deadline_all_that_has_been_sent_is_taken_in_first(lane: SocketLane, peer: socket.socket) -> None:
    """Even if that takes more than one read: the peer has done its part (rule 7)."""
    frame = with_header(b"x" * 90_000)
    peer.send(frame[:10])
    with pytest.raises(trio.WouldBlock):
        lane.receive_nowait(1)
    lane._frame_waited = lane._frame_seconds
    peer.send(frame[10:])
    assert await lane.receive(1) == [b"x" * 90_000]


async def test_a_frame_may_take_as_long_as_it_likes_to_begin(lane: SocketLane, peer: socket.socket) -> None:
    for _ in range(2):
        with trio.move_on_after(0.3) as scope:
            await lane.receive(1)
        assert scope.cancelled_caught
        peer.send(with_header(b"whole"))
        assert await lane.receive(1) == [b"whole"]


async def test_what_the_system_does_not_take_is_pending_and_leaves_in_order(
    lane: SocketLane, peer: socket.socket
) -> None:
    bodies = [bytes([65 + number]) * 90_000 for number in range(10)]
    sent = 0
    while lane.send_nowait(bodies[sent]):
        sent += 1
    sent += 1
    assert "bytes pending" in repr(lane)
    assert lane.send_nowait(bodies[sent]) is False  # a caller's mistake, and still no frame is torn
    sent += 1
    assert lane.frames_sent == sent

    with trio.move_on_after(0.02) as scope:  # nobody reads
        await lane.send_pending(bodies[sent:-1])
    assert scope.cancelled_caught

    received: list[bytes] = []
    other = SocketLane(peer, max_bytes=None)

    async def read() -> None:
        while len(received) < len(bodies):
            received.extend(await other.receive(100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await lane.send_pending([bodies[-1]])
    assert received == bodies
    assert lane.frames_sent == len(bodies)
    with trio.testing.assert_checkpoints():
        await lane.send_pending()
    other.close()


async def test_closing_wakes_whoever_waits(lane: SocketLane, peer: socket.socket) -> None:
    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await lane.receive(1)

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await lane.send_pending([b"x" * 90_000] * 10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        lane.close()
        lane.close()
    with pytest.raises(trio.ClosedResourceError):
        lane.receive_nowait(1)
    with pytest.raises(trio.ClosedResourceError):
        lane.send_nowait(b"")
    assert "closed" in repr(lane)


async def test_several_frames_leave_in_one_write_and_of_the_first_that_does_not_the_rest_is_pending(
    lane: SocketLane, peer: socket.socket
) -> None:
    assert lane.send_many_nowait([b"one", b"two"]) == 2
    assert peer.recv(100) == with_header(b"one") + with_header(b"two")
    assert lane.send_many_nowait([b"three"]) == 1
    peer.recv(100)
    bodies = [bytes([65 + number]) * 90_000 for number in range(10)]
    left = lane.send_many_nowait(bodies)
    assert 0 < left < 9
    assert lane.frames_sent == 3 + left + 1

    received: list[bytes] = []
    other = SocketLane(peer, max_bytes=None)

    async def read() -> None:
        while len(received) < len(bodies):
            received.extend(await other.receive(100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await lane.send_pending()
        await lane.send_pending(bodies[left + 1 :])
    assert received == bodies
    other.close()


async def test_a_lane_that_has_taken_everything_waits_without_another_read(
    lane: SocketLane, peer: socket.socket
) -> None:
    """Waiting is a checkpoint too: if the last read found less than it asked for, the next one would be in vain."""
    peer.send(with_header(b"first"))
    assert await lane.receive(1) == [b"first"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await lane.receive(1)
    assert scope.cancelled_caught
    peer.send(with_header(b"second"))
    with trio.testing.assert_checkpoints():
        assert await lane.receive(1) == [b"second"]
    peer.close()
    with pytest.raises(trio.EndOfChannel):
        await lane.receive(1)
    with pytest.raises(trio.EndOfChannel):
        await lane.receive(1)


class Forgetful(socket.socket):
    """A socket that the system has no memory for, a few times."""

    refusals = 3

    def send(self, *arguments: Any) -> int:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return super().send(*arguments)


async def test_a_frame_that_there_is_no_memory_for_is_written_later() -> None:
    here, there = socket.socketpair()
    lane = SocketLane(Forgetful(fileno=here.detach()), max_bytes=100_000, frame_seconds=0.2)
    with there:
        await lane.send_pending([b"later"])
        assert there.recv(100) == with_header(b"later")
        lane.close()


async def test_once_it_is_shut_what_was_sent_is_read_and_nobody_sends_more(
    lane: SocketLane, peer: socket.socket
) -> None:
    """A peer that keeps talking would otherwise keep the reader busy for ever."""
    peer.send(with_header(b"before") * 2)
    lane.shut()
    with pytest.raises(BrokenPipeError):
        peer.send(with_header(b"after"))
    assert lane.receive_nowait(1) == [b"before"]
    assert await lane.receive(10) == [b"before"]
    with pytest.raises(trio.EndOfChannel):
        lane.receive_nowait(1)
    lane.close()
    lane.shut()
