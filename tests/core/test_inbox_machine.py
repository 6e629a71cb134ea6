"""Any sequence of arrivals, readings, closings and handlers, against plain lists."""

from __future__ import annotations

import attrs
import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spindle_trio._errors import LaggedError
from spindle_trio._messages._hub import MessageHub, WorkerMessageChannel
from spindle_trio._messages._inbox import Inbox, ProcessMessageChannel
from spindle_trio._model import ProcessMessage

MOST, MOST_BYTES = 3, 10


@attrs.define(eq=False)
class Sender:
    """A process: all that it has ever sent, and which part of that is held."""

    inbox: Inbox
    sizes: list[int] = attrs.field(factory=list)
    oldest: int = 0
    dropped: int = 0
    heard: int = 0
    is_closed: bool = False

    @property
    def held(self) -> int:
        return len(self.sizes) - self.oldest

    @property
    def held_bytes(self) -> int:
        return sum(self.sizes[self.oldest :])


@attrs.define(eq=False)
class Reader:
    """A subscription: its place with each sender; one that reads one sender has one place."""

    channel: ProcessMessageChannel | WorkerMessageChannel
    places: dict[int, int]


class InboxMachine(RuleBasedStateMachine):
    @initialize(lossy=st.booleans())
    def begin(self, lossy: bool) -> None:
        self.lossy = lossy
        self.hub = MessageHub()
        self.senders: list[Sender] = []
        self.readers: list[Reader] = []
        self.order: list[tuple[int, int]] = []  # sender and number of every message, in order of arrival
        self.heard: list[tuple[str, int]] = []
        self.should_have_heard: list[tuple[str, int]] = []
        self.unsubscribe = None
        self.a_process_comes()

    @precondition(lambda self: len(self.senders) < 4)
    @rule()
    def a_process_comes(self) -> None:
        number = len(self.senders)
        self.senders.append(
            Sender(Inbox(str(number), None, max_messages=MOST, max_bytes=MOST_BYTES, lossy=self.lossy, hub=self.hub))
        )
        for reader in self.readers:
            if isinstance(reader.channel, WorkerMessageChannel):
                reader.places[number] = 0

    @rule(data=st.data(), size=st.integers(1, 6))
    def it_sends(self, data: st.DataObject, size: int) -> None:
        open_ones = [number for number, sender in enumerate(self.senders) if not sender.is_closed]
        if not open_ones:
            return
        number = data.draw(st.sampled_from(open_ones))
        sender = self.senders[number]
        payload = len(sender.sizes)
        sender.sizes.append(size)
        self.order.append((number, payload))
        if self.unsubscribe is not None:
            self.should_have_heard.append((str(number), payload))
            sender.heard = len(sender.sizes)
        sender.inbox.put(payload, size)
        self.settle()

    @rule(data=st.data(), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5))
    def it_sends_many_at_once(self, data: st.DataObject, sizes: list[int]) -> None:
        open_ones = [number for number, sender in enumerate(self.senders) if not sender.is_closed]
        if not open_ones:
            return
        number = data.draw(st.sampled_from(open_ones))
        sender = self.senders[number]
        first = len(sender.sizes)
        payloads = list(range(first, first + len(sizes)))
        for payload, size in zip(payloads, sizes, strict=True):
            sender.sizes.append(size)
            self.order.append((number, payload))
            if self.unsubscribe is not None:
                self.should_have_heard.append((str(number), payload))
                sender.heard = len(sender.sizes)
                self.settle()
        sender.inbox.put_many(payloads, sizes)
        self.settle()

    @rule(data=st.data())
    def it_ends(self, data: st.DataObject) -> None:
        sender = data.draw(st.sampled_from(self.senders))
        sender.is_closed = True
        sender.inbox.close()
        self.leave_what_is_over()

    @precondition(lambda self: len(self.readers) < 3)
    @rule(data=st.data())
    def somebody_subscribes_to_one(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(range(len(self.senders))))
        sender = self.senders[number]
        self.readers.append(Reader(sender.inbox.subscribe(), {number: sender.oldest}))

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def somebody_subscribes_to_all(self) -> None:
        places = {number: sender.oldest for number, sender in enumerate(self.senders) if not sender.is_closed}
        self.readers.append(Reader(self.hub.subscribe(), places))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def somebody_leaves(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        self.readers.remove(reader)
        reader.channel.close()
        self.settle()

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def somebody_reads(self, data: st.DataObject) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        unread = [
            (number, payload) for number, payload in self.order if payload >= reader.places.get(number, payload + 1)
        ]
        outcome: object
        try:
            message = reader.channel.receive_nowait()
            if isinstance(reader.channel, WorkerMessageChannel):
                assert isinstance(message, ProcessMessage)
                outcome = (int(message.process_id), message.payload)
            else:
                outcome = (next(iter(reader.places)), message)
        except LaggedError as error:
            outcome = error.missed
        except trio.WouldBlock:
            outcome = "nothing yet"
        except trio.EndOfChannel:
            outcome = "the end"
        if not unread:
            is_over = (
                isinstance(reader.channel, ProcessMessageChannel) and self.senders[next(iter(reader.places))].is_closed
            )
            assert outcome == ("the end" if is_over else "nothing yet")
            return
        number, payload = unread[0]
        missed = self.senders[number].oldest - payload
        if missed > 0:
            assert outcome == missed
            reader.places[number] += missed
        else:
            assert outcome == (number, payload)
            reader.places[number] += 1
        self.settle()
        self.leave_what_is_over()

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), most=st.none() | st.integers(1, 4))
    def somebody_reads_many(self, data: st.DataObject, most: int | None) -> None:
        """What is read at once is what would be read one by one, up to the first gap or the end."""
        reader = data.draw(st.sampled_from(self.readers))
        unread = [
            (number, payload) for number, payload in self.order if payload >= reader.places.get(number, payload + 1)
        ]
        outcome: object
        try:
            messages = reader.channel._receive_many_nowait(most)
            if isinstance(reader.channel, WorkerMessageChannel):
                outcome = [
                    (int(message.process_id), message.payload)
                    for message in messages
                    if isinstance(message, ProcessMessage)
                ]
            else:
                outcome = [(next(iter(reader.places)), message) for message in messages]
        except LaggedError as error:
            outcome = error.missed
        except trio.WouldBlock:
            outcome = "nothing yet"
        except trio.EndOfChannel:
            outcome = "the end"
        if not unread:
            is_over = (
                isinstance(reader.channel, ProcessMessageChannel) and self.senders[next(iter(reader.places))].is_closed
            )
            assert outcome == ("the end" if is_over else "nothing yet")
            return
        number, payload = unread[0]
        missed = self.senders[number].oldest - payload
        if missed > 0:
            assert outcome == missed
            reader.places[number] += missed
        else:
            there: list[tuple[int, int]] = []
            for number, payload in unread:
                if payload < self.senders[number].oldest or (most is not None and len(there) == most):
                    break
                there.append((number, payload))
            assert outcome == there
            for number, payload in there:
                reader.places[number] = payload + 1
        self.settle()
        self.leave_what_is_over()

    @precondition(lambda self: self.unsubscribe is None)
    @rule()
    def a_handler_comes(self) -> None:
        held = [
            (str(number), payload)
            for number, payload in self.order
            if payload >= self.senders[number].oldest and not self.senders[number].is_closed
        ]
        self.should_have_heard += held
        self.unsubscribe = self.hub.add_handler(
            lambda message: self.heard.append((message.process_id, message.payload))  # type: ignore[arg-type]  # numbers
        )
        for sender in self.senders:
            if not sender.is_closed:  # what has ended has left the hub: its messages wait for a channel as before
                sender.heard = len(sender.sizes)
        self.settle()

    @precondition(lambda self: self.unsubscribe is not None)
    @rule()
    def the_handler_goes(self) -> None:
        self.unsubscribe()
        self.unsubscribe = None

    def leave_what_is_over(self) -> None:
        """Let a reader of all processes go from those that have ended and that it has read."""
        for reader in self.readers:
            if isinstance(reader.channel, WorkerMessageChannel):
                for number, sender in enumerate(self.senders):
                    if sender.is_closed and reader.places.get(number, -1) >= len(sender.sizes):
                        del reader.places[number]

    def settle(self) -> None:
        """Let go of what the theory of operation says that is let go of."""
        for number, sender in enumerate(self.senders):
            places = [reader.places[number] for reader in self.readers if number in reader.places]
            if places:
                sender.oldest = max(sender.oldest, min(places))
            else:  # what a handler has heard is kept for nobody
                sender.oldest = max(sender.oldest, sender.heard)
            if not places or self.lossy:
                while sender.held > MOST or sender.held_bytes > MOST_BYTES:
                    sender.oldest += 1
                    sender.dropped += 1

    @invariant()
    def inboxes_hold_what_they_should(self) -> None:
        for number, sender in enumerate(getattr(self, "senders", [])):
            inbox = sender.inbox
            assert (inbox.held, inbox.held_bytes) == (sender.held, sender.held_bytes)
            assert (inbox.received, inbox.dropped) == (len(sender.sizes), sender.dropped)
            listening = [reader for reader in self.readers if number in reader.places]
            assert inbox.subscriptions == len(listening) + (self.unsubscribe is not None)
            if not listening or self.lossy:
                assert inbox.room == MOST
            elif sender.held_bytes < MOST_BYTES:
                assert inbox.room == max(0, MOST - sender.held)
            else:
                assert inbox.room == 0

    @invariant()
    def handlers_have_heard_everything_once_and_in_order(self) -> None:
        assert getattr(self, "heard", []) == getattr(self, "should_have_heard", [])


TestInboxMachine = InboxMachine.TestCase


class LongInboxMachine(InboxMachine):
    """The same, in the soak's numbers."""


TestLongInboxMachine = pytest.mark.soak(LongInboxMachine.TestCase)
TestLongInboxMachine.settings = settings.get_profile("soak")
