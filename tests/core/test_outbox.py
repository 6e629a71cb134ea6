"""The queue in front of a lane: in order, bounded, and drained by a task only while something waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from spindle_trio._protocol._binary import BinaryBody
from spindle_trio._protocol._outbox import Outbox
from spindle_trio.abc import FrameLane
from spindle_trio.testing._memory_lane import MemoryLane, memory_lane_pair


class Tap(FrameLane):
    """A lane that takes frames while it is open, and keeps the rest of one until it is opened again."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.batches: list[list[bytes]] = []
        self.pending: list[bytes] = []
        self.is_open = True
        self.is_gone = False
        self.opened = trio.lowlevel.ParkingLot()

    def open(self) -> None:
        self.is_open = True
        self.opened.unpark_all()

    def go(self) -> None:
        """Be the lane of a peer that is gone."""
        self.is_gone = True
        self.opened.unpark_all()

    def send_nowait(self, body: bytes) -> bool:
        assert not self.pending, "called while something is pending"
        if self.is_gone:
            raise trio.BrokenResourceError
        if not self.is_open:
            self.pending.append(body)
            return False
        self.taken.append(body)
        return True

    async def send_pending(self, bodies: Sequence[bytes] = ()) -> None:
        self.pending += bodies
        self.batches.append(list(bodies))
        await trio.lowlevel.checkpoint()
        while not (self.is_open or self.is_gone):
            await self.opened.park()
        if self.is_gone:
            raise trio.BrokenResourceError
        self.taken += self.pending
        self.pending.clear()

    async def receive(self, max_frames: int) -> list[bytes]:
        raise NotImplementedError

    def receive_nowait(self, max_frames: int) -> list[bytes]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


@pytest.fixture
def tap() -> Tap:
    return Tap()


@pytest.fixture
async def outbox(tap: Tap, nursery: trio.Nursery) -> AsyncIterator[Outbox]:
    """Put an outbox for ten waiting bytes in front of the tap."""
    yield Outbox(tap, nursery.start_soon, 10)
    tap.open()


def put(outbox: Outbox, *bodies: bytes) -> None:
    for body in bodies:
        outbox.send_nowait(body)


async def test_where_the_lane_takes_a_frame_no_task_is_started(tap: Tap) -> None:
    def start_soon(_: Callable[[], Awaitable[object]]) -> None:
        raise AssertionError("a task was started")

    outbox = Outbox(tap, start_soon)
    with trio.testing.assert_no_checkpoints():
        put(outbox, b"a", b"b")
    assert tap.taken == [b"a", b"b"]
    assert outbox.is_flushed
    assert (outbox.messages, outbox.waiting_bytes) == (0, 0)


async def test_what_waits_leaves_in_order_and_all_at_once(tap: Tap, outbox: Outbox) -> None:
    tap.is_open = False
    put(outbox, b"a", b"bb", b"ccc")
    assert (outbox.messages, outbox.waiting_bytes) == (2, 5)
    await trio.testing.wait_all_tasks_blocked()
    put(outbox, b"d")
    tap.open()
    await outbox.wait_flushed()
    assert tap.taken == [b"a", b"bb", b"ccc", b"d"]
    assert tap.batches == [[], [b"bb", b"ccc", b"d"]]
    put(outbox, b"e")
    assert tap.taken[-1] == b"e"


async def test_the_bound_is_on_what_waits_and_one_frame_may_be_longer(tap: Tap, outbox: Outbox) -> None:
    tap.is_open = False
    put(outbox, b"x" * 100, b"y" * 100)
    assert outbox.waiting_bytes == 100
    with pytest.raises(trio.WouldBlock):
        outbox.send_nowait(b"z" * 100)


async def test_beside_one_longer_frame_as_much_may_wait_as_without_it(tap: Tap, outbox: Outbox) -> None:
    tap.is_open = False
    put(outbox, b"partly sent", b"x" * 4, b"y" * 100, b"z" * 6)
    assert (outbox.messages, outbox.waiting_bytes) == (3, 110)
    with pytest.raises(trio.WouldBlock):
        outbox.send_nowait(b"z")


async def test_send_nowait_would_block_at_the_bound_and_not_before(tap: Tap, outbox: Outbox) -> None:
    tap.is_open = False
    put(outbox, b"partly sent", b"x" * 4, b"y" * 6)
    with pytest.raises(trio.WouldBlock):
        outbox.send_nowait(b"z")
    assert (outbox.messages, outbox.waiting_bytes) == (2, 10)
    tap.open()
    await outbox.wait_flushed()
    outbox.send_nowait(b"z")
    assert tap.taken == [b"partly sent", b"x" * 4, b"y" * 6, b"z"]


async def test_without_a_bound_everything_may_wait(tap: Tap, nursery: trio.Nursery) -> None:
    outbox = Outbox(tap, nursery.start_soon)
    tap.is_open = False
    put(outbox, *[b"x" * 1000] * 100)
    assert outbox.waiting_bytes == 99_000
    tap.open()
    await outbox.wait_flushed()
    assert len(tap.taken) == 100


async def test_send_is_a_checkpoint_also_where_there_is_room(tap: Tap, outbox: Outbox) -> None:
    with trio.testing.assert_checkpoints():
        await outbox.send(b"a")
    assert tap.taken == [b"a"]


async def test_senders_wait_for_room_first_come_first_served(tap: Tap, outbox: Outbox, nursery: trio.Nursery) -> None:
    tap.is_open = False
    put(outbox, b"0", b"x" * 10)
    bodies = [b"%d" % number * 6 for number in range(1, 6)]
    for body in bodies:
        nursery.start_soon(outbox.send, body)
        await trio.testing.wait_all_tasks_blocked()
    assert outbox.messages == 1
    with pytest.raises(trio.WouldBlock):  # nobody overtakes those that wait, not even with a frame that would fit
        outbox.send_nowait(b"")
    tap.open()
    while len(tap.taken) < 7:
        await trio.testing.wait_all_tasks_blocked()
    assert tap.taken == [b"0", b"x" * 10, *bodies]
    assert all(sum(map(len, batch)) <= 10 for batch in tap.batches)


async def test_nobody_overtakes_a_sender_that_waits_although_there_is_room(tap: Tap, outbox: Outbox) -> None:
    tap.is_open = False
    put(outbox, b"0", b"x" * 8)
    async with trio.open_nursery() as senders:
        senders.start_soon(outbox.send, b"y" * 5)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            outbox.send_nowait(b"z")
        tap.open()
    await outbox.wait_flushed()
    assert tap.taken == [b"0", b"x" * 8, b"y" * 5]


async def test_a_cancelled_send_was_not_sent(tap: Tap, outbox: Outbox) -> None:
    tap.is_open = False
    put(outbox, b"0", b"x" * 10)
    with trio.move_on_after(0) as waiting:
        await outbox.send(b"waits for room")
    async with trio.open_nursery() as senders:
        senders.start_soon(outbox.send, b"first")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0) as queueing:
            await outbox.send(b"waits for its turn")
        with trio.CancelScope() as at_once:
            at_once.cancel()
            await outbox.send(b"never begins")
        tap.open()
    await outbox.wait_flushed()
    assert [scope.cancelled_caught for scope in (waiting, queueing, at_once)] == [True] * 3
    assert tap.taken == [b"0", b"x" * 10, b"first"]


async def test_a_cancelled_sender_lets_the_next_one_have_the_room(tap: Tap, outbox: Outbox) -> None:
    tap.is_open = False
    put(outbox, b"0", b"x" * 10)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as senders:

            async def give_up() -> None:
                with trio.CancelScope() as own:
                    scopes.append(own)
                    await outbox.send(b"gives up")

            scopes: list[trio.CancelScope] = []
            senders.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            senders.start_soon(outbox.send, b"next")
            await trio.testing.wait_all_tasks_blocked()
            tap.open()
            scopes[0].cancel()
    assert not scope.cancelled_caught
    await outbox.wait_flushed()
    assert tap.taken[:2] == [b"0", b"x" * 10]
    assert tap.taken[-1] == b"next"


async def test_waiting_for_an_outbox_that_is_flushed_is_a_checkpoint(outbox: Outbox) -> None:
    with trio.testing.assert_checkpoints():
        await outbox.wait_flushed()


async def test_a_gone_peer_breaks_the_outbox_at_once_where_the_lane_says_so(tap: Tap, outbox: Outbox) -> None:
    tap.go()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="the other end of the lane is gone"):
            outbox.send_nowait(b"a")
    with pytest.raises(trio.BrokenResourceError):
        await outbox.send(b"a")
    assert outbox.is_flushed


@pytest.mark.parametrize("how", ["peer", "close"])
async def test_whoever_waits_hears_of_the_end(tap: Tap, outbox: Outbox, how: str) -> None:
    tap.is_open = False
    put(outbox, b"0", b"x" * 10)
    outcomes: list[str] = []

    async def send() -> None:
        try:
            await outbox.send(b"y")
        except trio.BrokenResourceError:
            outcomes.append("broken")

    async def flush() -> None:
        await outbox.wait_flushed()
        outcomes.append("flushed")

    async with trio.open_nursery() as waiting:
        waiting.start_soon(send)
        waiting.start_soon(send)
        waiting.start_soon(flush)
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == []
        if how == "peer":
            tap.go()
        else:
            outbox.close()
        with trio.fail_after(5):
            while len(outcomes) < 3:
                await trio.testing.wait_all_tasks_blocked()
    assert sorted(outcomes) == ["broken", "broken", "flushed"]
    assert (outbox.messages, outbox.waiting_bytes) == (0, 0)
    with pytest.raises(trio.BrokenResourceError):
        outbox.send_nowait(b"z")
    assert b"x" * 10 not in tap.taken


async def test_a_closed_lane_breaks_the_outbox_as_a_gone_peer_does(nursery: trio.Nursery) -> None:
    near, far = memory_lane_pair(None, buffer_frames=1)
    outbox = Outbox(near, nursery.start_soon)
    put(outbox, b"a", b"b", b"c")
    near.close()
    await outbox.wait_flushed()
    with pytest.raises(trio.BrokenResourceError):
        outbox.send_nowait(b"d")
    assert far.receive_nowait(9) == [b"a"]
    with pytest.raises(AssertionError, match="starts no task"):
        outbox._start_soon(outbox.wait_flushed)


async def test_an_outbox_whose_draining_is_cancelled_lets_nobody_wait_for_room(tap: Tap) -> None:
    """A process that is abandoned never reads again: a `send` that waits for it must not meet its closed nursery."""
    outcomes: list[str] = []
    async with trio.open_nursery() as senders:
        async with trio.open_nursery() as own:
            outbox = Outbox(tap, own.start_soon, 10)
            tap.is_open = False
            put(outbox, b"0", b"x" * 10)

            async def send() -> None:
                try:
                    await outbox.send(b"y")
                except trio.BrokenResourceError:
                    outcomes.append("broken")

            senders.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            own.cancel_scope.cancel()
        with trio.fail_after(5):
            while not outcomes:
                await trio.testing.wait_all_tasks_blocked()
    assert outcomes == ["broken"]
    assert outbox.is_flushed


@pytest.mark.parametrize("buffer_frames", [1, 16])
async def test_everything_arrives_in_order_over_a_memory_lane(buffer_frames: int, nursery: trio.Nursery) -> None:
    near, far = memory_lane_pair(None, buffer_frames=buffer_frames)
    outbox = Outbox(near, nursery.start_soon, 50)
    bodies = [b"%d" % number for number in range(200)]
    got: list[bytes] = []

    async def read(lane: MemoryLane) -> None:
        while len(got) < len(bodies):
            got.extend(await lane.receive(7))

    async with trio.open_nursery() as reading:
        reading.start_soon(read, far)
        for body in bodies:
            try:
                outbox.send_nowait(body)
            except trio.WouldBlock:
                await outbox.send(body)
    assert got == bodies


async def test_frames_before_and_after_one_with_bytes_leave_apart_from_it(tap: Tap, nursery: trio.Nursery) -> None:
    outbox = Outbox(tap, nursery.start_soon)
    tap.is_open = False
    whole = BinaryBody.of(b"body", [b"x" * 9], 8)
    put(outbox, b"partly sent", b"a", b"bb", whole, b"c")
    assert (outbox.messages, outbox.waiting_bytes) == (4, 3 + 13 + 1)
    tap.open()
    await outbox.wait_flushed()
    assert tap.batches == [[], [b"a", b"bb"], *([piece] for piece in whole.bodies()), [b"c"]]
    assert (outbox.messages, outbox.waiting_bytes) == (0, 0)


# ---- joining what is sent without a pause


IN_A_ROW = 128
BODY = b"x" * 100


class JoiningTap(Tap):
    """A tap that notes what leaves inline, write by write; it takes so many more frames at most."""

    def __init__(self, room: int = 10**6) -> None:
        super().__init__()
        self.writes: list[int] = []
        self.room = room

    def send_nowait(self, body: bytes) -> bool:
        return bool(self.send_many_nowait([body]))

    def send_many_nowait(self, bodies: Sequence[bytes]) -> int:
        assert not self.pending, "called while something is pending"
        if self.is_gone:
            raise trio.BrokenResourceError
        left = min(len(bodies), self.room)
        self.room -= left
        self.taken += bodies[:left]
        self.pending += bodies[left : left + 1]
        self.writes.append(left)
        return left


async def test_what_is_sent_without_a_pause_leaves_inline_at_first_and_is_then_joined(nursery: trio.Nursery) -> None:
    tap = JoiningTap()
    outbox = Outbox(tap, nursery.start_soon)
    bodies = [b"%d" % number for number in range(IN_A_ROW + 50)]
    with trio.testing.assert_no_checkpoints():
        for body in bodies:
            outbox.send_nowait(body, joins=True)
    assert tap.writes == [1] * IN_A_ROW
    assert (outbox.messages, outbox.is_flushed) == (50, False)
    await outbox.wait_flushed()
    assert tap.taken == bodies
    assert [len(batch) for batch in tap.batches] == [50]
    outbox.send_nowait(b"alone", joins=True)
    assert tap.writes == [1] * (IN_A_ROW + 1), "after the flood a message leaves at once again"


async def test_a_send_that_is_not_joined_is_no_part_of_a_flood(nursery: trio.Nursery) -> None:
    tap = JoiningTap()
    outbox = Outbox(tap, nursery.start_soon)
    for _ in range(3):
        for _ in range(IN_A_ROW):
            outbox.send_nowait(BODY, joins=True)
        outbox.send_nowait(BODY)
    assert tap.writes == [1] * 3 * (IN_A_ROW + 1)
    assert outbox.is_flushed


async def test_joined_frames_leave_inline_when_there_are_many(nursery: trio.Nursery) -> None:
    """So the peer has something to do meanwhile, and what a killed process has not got rid of is little."""
    tap = JoiningTap()
    outbox = Outbox(tap, nursery.start_soon)
    for _ in range(IN_A_ROW + 1_000):
        outbox.send_nowait(BODY, joins=True)
    assert tap.writes[IN_A_ROW:] == [327, 327, 327]
    assert outbox.messages == 1_000 - 3 * 327
    await outbox.wait_flushed()
    assert tap.taken == [BODY] * (IN_A_ROW + 1_000)


async def test_a_frame_that_is_not_joined_takes_those_before_it_along(nursery: trio.Nursery) -> None:
    tap = JoiningTap()
    outbox = Outbox(tap, nursery.start_soon)
    for _ in range(IN_A_ROW + 5):
        outbox.send_nowait(BODY, joins=True)
    await outbox.send(b"now")
    assert tap.taken[-1] == b"now"
    assert len(tap.taken) == IN_A_ROW + 6


async def test_joined_frames_can_be_sent_on_request_and_after_as_few_frames_as_one_likes(
    nursery: trio.Nursery,
) -> None:
    tap = JoiningTap()
    outbox = Outbox(tap, nursery.start_soon, in_a_row=1)
    outbox.send_joined()  # there are none
    for _ in range(5):
        outbox.send_nowait(BODY, joins=True)
    assert len(tap.taken) == 1
    outbox.send_joined()
    assert tap.taken == [BODY] * 5
    outbox.send_nowait(BODY, joins=True)
    tap.go()
    outbox.send_joined()
    with pytest.raises(trio.BrokenResourceError):
        outbox.send_nowait(BODY)


async def test_where_the_lane_takes_no_more_of_a_flood_it_waits_up_to_the_bound(nursery: trio.Nursery) -> None:
    tap = JoiningTap(room=IN_A_ROW + 100)
    outbox = Outbox(tap, nursery.start_soon, 40_000)
    sent = 0
    with pytest.raises(trio.WouldBlock):
        while True:
            outbox.send_nowait(b"%4d" % sent + BODY, joins=True)
            sent += 1
    assert tap.writes[-1] == 100
    assert len(tap.pending) == 1
    assert outbox.waiting_bytes <= 40_000 < outbox.waiting_bytes + 104
    await outbox.wait_flushed()
    assert tap.taken == [b"%4d" % number + BODY for number in range(sent)]


async def test_a_bound_that_is_smaller_than_what_is_joined_is_none_while_the_lane_is_free(
    nursery: trio.Nursery,
) -> None:
    tap = JoiningTap()
    outbox = Outbox(tap, nursery.start_soon, 250)
    for _ in range(IN_A_ROW + 9):
        outbox.send_nowait(BODY, joins=True)
    assert tap.writes[IN_A_ROW:] == [2] * 4


async def test_a_peer_that_goes_in_a_flood_breaks_the_outbox(nursery: trio.Nursery) -> None:
    tap = JoiningTap()
    outbox = Outbox(tap, nursery.start_soon)
    for _ in range(IN_A_ROW + 5):
        outbox.send_nowait(BODY, joins=True)
    tap.go()
    with pytest.raises(trio.BrokenResourceError):
        outbox.send_nowait(BODY)
    assert outbox.is_flushed
    await outbox.wait_flushed()


async def test_a_lane_that_cannot_join_takes_one_frame_after_another(tap: Tap) -> None:
    assert tap.send_many_nowait([b"a", b"b"]) == 2
    tap.is_open = False
    assert tap.send_many_nowait([b"c", b"d"]) == 0
    assert (tap.taken, tap.pending) == ([b"a", b"b"], [b"c"])
