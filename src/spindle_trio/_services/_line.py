"""The services of a group that are started one after another, and which of them an end takes along."""

from __future__ import annotations

import math
from typing import Literal, Protocol, TypeAlias

import trio

from spindle_trio._services._end import End
from spindle_trio._services._member import Member, Phase, PutOut
from spindle_trio._services._restart import RestartAt
from spindle_trio._trio_rules import uninterrupted

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Which services are started again together with one that has ended."""


class LineOwner(Protocol):
    """The group of a line."""

    @property
    def is_closing(self) -> bool:
        """Whether nothing is started any more."""

    @property
    def nursery(self) -> trio.Nursery:
        """Runs the tasks of its lines."""

    def judge(self, member: Member, end: End, put_out: PutOut | None) -> RestartAt | None:
        """Say when a member is started again after an end, if it is. Tells its users."""

    def recovered(self, member: Member) -> None:
        """Note that a member runs."""

    def crash(self, error: Exception) -> None:
        """End with an error that is no end of a process."""


@uninterrupted
class Line:
    """Services that are started one after another, by one task.

    The task looks at all of them, does the most urgent thing, and looks again. What is to be done is written down in
    the members, so that whatever comes while it is busy is seen when it looks next. It is busy for a bounded time, but
    for a start: while one is under way, `_look` looks, and may end it.
    """

    def __init__(self, owner: LineOwner, strategy: Strategy) -> None:
        """Begin empty; `run` has to be started.

        Args:
            owner: the group.
            strategy: whom an end takes along. With ``"one_for_one"`` a line is for one service.
        """
        self.at_rest: trio.Event = trio.Event()
        """Its task does nothing any more; members may still run."""
        self._owner = owner
        self._strategy = strategy
        self._members: list[Member] = []
        self._waits = trio.CancelScope()  # in which the task waits now; cancelled to look again
        self._starting: Member | None = None
        self._is_looking = False
        self._is_stale = True  # something has come that the task has not taken note of

    def add(self, member: Member) -> None:
        """Have one more service started, after all others."""
        self._members.append(member)
        member.wake = self.wake
        self.wake()

    def wake(self) -> None:
        """Look at all members again."""
        self._is_stale = True
        if self._starting is None:
            self._waits.cancel()
        elif not self._is_looking:
            self._is_looking = True
            self._owner.nursery.start_soon(self._look)

    # ---- the task

    async def run(self) -> None:
        """Do what is to be done, until the group closes. Not cancelled from outside: its block may still need it."""
        with trio.CancelScope(shield=True):
            try:
                while self._take_note():
                    await self._act()
            except Exception as error:  # the worker has gone, or something is wrong here: nobody waits for ever
                self._owner.crash(error)
            finally:
                self.at_rest.set()

    async def _act(self) -> None:
        """Do the most urgent thing, or wait until something changes."""
        unwanted = [member for member in self._members if member.put_out is not None]
        if unwanted:
            await self._put_out(unwanted[-1])
            return
        down = next((member for member in self._members if member.phase is Phase.DOWN), None)
        if down is not None and down.starts_at <= trio.current_time():
            await self._start(down)
            return
        with trio.CancelScope(deadline=math.inf if down is None else down.starts_at) as self._waits:
            if down is None:
                await trio.sleep_forever()
            await down.unit.wait_lost()
            down.starts_at = -math.inf  # the start raises that

    async def _start(self, member: Member) -> None:
        member.phase = Phase.STARTING
        member.status.starting()
        self._starting = member
        end: End | None = None
        is_over = False
        try:
            with trio.CancelScope() as self._waits:
                end = await member.unit.start()
                is_over = True
        finally:
            self._starting = None
            self._is_stale = True  # what came meanwhile may have to wait for this
            member.phase = Phase.DOWN
        if end is not None:
            self._ended(member, end)
        elif is_over:
            self._up(member)

    def _up(self, member: Member) -> None:
        member.phase = Phase.UP
        member.watch = trio.CancelScope(deadline=member.unit.ready_at + member.policy.max_lifetime)
        self._owner.nursery.start_soon(self._watch, member, member.watch)
        if not (member.is_leaving or member.put_out or self._owner.is_closing):
            member.status.running()
            member.begun.set()
            self._owner.recovered(member)

    async def _watch(self, member: Member, scope: trio.CancelScope) -> None:
        """Wait until a process has ended, or its time is over."""
        with trio.CancelScope(shield=True):
            try:
                with scope:
                    end = await member.unit.watch()
                    if member.watch is scope:  # else the line has stopped it in the same moment, and knows the end
                        member.end = end
            except Exception as error:  # the connection is lost, or something is wrong here
                self._owner.crash(error)
        self.wake()

    async def _put_out(self, member: Member) -> None:
        member.status.recycling()
        self._ended(member, await member.put_out_now())

    # ---- what is to be done

    async def _look(self) -> None:
        """Look at all members while one of them is being started."""
        self._is_looking = False
        member = self._starting
        if member is None:
            return  # the task has looked itself
        if not self._take_note() or member.is_leaving:
            self._waits.cancel()
        elif member.put_out is not None:
            member.unit.call_off()

    def _take_note(self) -> bool:
        """Take in what has come. Returns whether there may be something to do, now or later."""
        while self._is_stale and not self._owner.is_closing:
            self._is_stale = False
            self._take_note_once()
        return not self._owner.is_closing and bool(self._members or self._strategy != "one_for_one")

    def _take_note_once(self) -> None:
        """Take in what has come: in order, so that an end that takes others along counts before theirs."""
        for member in self._members.copy():
            end, member.end = member.end, None
            if member.is_leaving and member.phase is not Phase.STARTING:
                member.end = end
                self._members.remove(member)
                self._owner.nursery.start_soon(member.finish)
            elif end is not None:
                member.watch = None
                self._ended(member, end)
            elif (why := member.recycling()) is not None:
                member.put_out = why
                for other in self._taken_along(member):
                    _take_along(other, member)
            elif member.phase is Phase.DOWN and member.is_hurried:
                member.is_hurried = False  # once: one before it that fails again has its delay
                for other in self._members[: self._members.index(member) + 1]:
                    other.starts_at = -math.inf

    def _ended(self, member: Member, end: End) -> None:
        """Decide what follows an end."""
        self._is_stale = True  # somebody may have asked for another start
        member.phase = Phase.DOWN
        put_out, member.put_out = member.put_out, None
        restart = self._owner.judge(member, end, put_out)
        if restart is None:
            return
        concerned = [member]
        if put_out is None:
            for other in self._taken_along(member):
                _take_along(other, member)
                concerned.append(other)
        for other in concerned:
            other.starts_at = max(other.starts_at, restart.at)
            if other.phase is Phase.DOWN and other.begun.is_set() and other.status.restart_at != other.starts_at:
                other.status.waiting(other.starts_at, end.at)

    def _taken_along(self, member: Member) -> list[Member]:
        """Return those that are started again together with a member."""
        if self._strategy == "one_for_all":
            return [other for other in self._members if other is not member]
        return self._members[self._members.index(member) + 1 :]  # with "one_for_one" there is nobody else


def _take_along(other: Member, member: Member) -> None:
    """Have one put out that depends on a member whose process goes, or has gone."""
    other.is_recovering = other.is_recovering or member.is_recovering
    if other.phase is not Phase.DOWN and other.put_out is None:
        other.put_out = PutOut(f"{member.status.name} is started again", is_own=False)
