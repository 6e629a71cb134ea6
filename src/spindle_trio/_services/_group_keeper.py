"""What keeps a group: its lines, its count of failures, and its end."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import TYPE_CHECKING

import trio

from spindle_trio._nursery_scope import NurseryScope
from spindle_trio._services._block import Block
from spindle_trio._services._line import Line, Strategy
from spindle_trio._services._member import Member, PutOut
from spindle_trio._services._restart import Ending, GiveUp, Leave, RestartAt, RestartPolicy, decide
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from spindle_trio._services._end import End
    from spindle_trio._services._settings import UnitSettings
    from spindle_trio._worker import Worker


@uninterrupted
class GroupKeeper:
    """Keeps the services of one group."""

    def __init__(self, worker: Worker, strategy: Strategy, policy: RestartPolicy) -> None:
        """Begin empty; `open` has to follow, and `leave` that."""
        self.strategy: Strategy = strategy
        self.policy: RestartPolicy = policy
        self.members: dict[str, Member] = {}
        """By name, in the order of their starts."""
        self.failures: int = 0
        """In a row."""
        self.is_closing: bool = False
        self._worker = worker
        self._block = Block()
        self._scope = NurseryScope()
        self._lines: dict[Member | None, Line] = {}  # one for each member, or for all
        self._turn = trio.Lock()  # of the one that is started for the first time
        self._recycled: Member | None = None  # whose lifetime was over, until it runs again
        self._recovered_at = -math.inf  # when a member last ran again after a failure
        self._closing = trio.Event()
        self._gone = trio.Event()
        self._why = "its group has been left"
        self._reason: str | None = None
        self._kind: type[Exception] = trio.ClosedResourceError  # of what refuses those who come afterwards

    @property
    def nursery(self) -> trio.Nursery:
        """Runs the tasks of the lines."""
        return self._scope.nursery

    async def open(self) -> None:
        """Begin: its user's block comes next."""
        await self._scope.open()
        self.nursery.start_soon(self._run)
        self._block.enter()

    # ---- what users ask for

    async def start(self, settings: UnitSettings, name: str, policy: RestartPolicy) -> Member:
        """Start one more service, after all others, and return when it runs.

        Raises:
            ValueError: the name is taken.
            trio.ClosedResourceError: the group or the worker is closed.
            Exception: what `spawn` or `on_start` raised. Nothing is left of it then; nor if this is cancelled.
        """
        async with self._turn:
            namesake = self.members.get(name)
            if namesake is not None and namesake.is_leaving:
                await namesake.gone.wait()
            if self.is_closing:
                raise self._refusal("the group")
            if name in self.members:
                raise ValueError(f"the group has a service {name!r} already; give this one another name=")
            member = Member(self._worker, settings, policy, name=name, owner=self)
            self.members[name] = member
            self._line_for(member).add(member)
            try:
                await member.begun.wait()
            except BaseException:
                member.leave(None, "its start was cancelled")
                with trio.CancelScope(shield=True):
                    await member.gone.wait()
                raise
        if member.error is not None:
            error, member.error = member.error, None
            try:
                raise error
            finally:
                del error  # its traceback has this frame, and with it the whole group
        return member

    def _line_for(self, member: Member) -> Line:
        whose = member if self.strategy == "one_for_one" else None
        if whose not in self._lines:
            self._lines[whose] = Line(self, self.strategy)
            self.nursery.start_soon(self._lines[whose].run)
        return self._lines[whose]

    # ---- for its lines and members

    def removed(self, member: Member) -> None:
        """Forget a member: it is over."""
        del self.members[member.name]
        self._lines.pop(member, None)
        self._end_turn(member)

    def may_recycle(self, member: Member) -> bool:
        """Whether it is the turn of a member whose lifetime is over: one after another, each once the last runs."""
        if self._recycled is None:
            self._recycled = member
        return self._recycled is member

    def _end_turn(self, member: Member) -> None:
        if self._recycled is member:
            self._recycled = None
            for line in self._lines.values():
                line.wake()

    def judge(self, member: Member, end: End, put_out: PutOut | None) -> RestartAt | None:
        """Say when a member is started again after an end, if it is. Tells its users.

        Args:
            member: whose process has ended, or did not become ready.
            end: how.
            put_out: why it was to be stopped, if it was. Who is taken along does not fail, whatever it does meanwhile.
        """
        how = end.how
        is_taken_along = put_out is not None and not put_out.is_own
        if is_taken_along and how in {Ending.COMPLETED, Ending.FAILED}:
            how = Ending.RECYCLED
        if put_out is None and not member.begun.is_set():
            member.status.ended(end, self.failures)
            member.error = end.error(member.status.name)
            member.leave(None, end.said, end=end)
            return None
        is_whole = not any(other.is_recovering for other in self.members.values())
        self.failures, decision = decide(
            member.policy,
            self.failures,
            how,
            ready_at=self._recovered_at if is_whole and end.ready_at is not None else None,
            now=end.at,
            roll=random.random(),  # noqa: S311  # no secret
        )
        member.status.ended(end, self.failures)
        if self.is_closing or member.is_leaving:
            return None
        if isinstance(decision, GiveUp):
            self._give_up(member, end)
            return None
        if put_out is not None and is_taken_along and member.policy.when == "never" and member.begun.is_set():
            member.leave(None, f"{put_out.reason}, and it is not, with when='never'", end=end)
            return None
        if isinstance(decision, Leave):
            member.leave(None, end.said, end=end)
            return None
        member.is_recovering = member.is_recovering or how is not Ending.RECYCLED
        return decision

    def recovered(self, member: Member) -> None:
        """Note that a member runs; if it was down because of a failure, the group has been whole since then."""
        self._end_turn(member)
        if member.is_recovering:
            member.is_recovering = False
            self._recovered_at = trio.current_time()

    def crash(self, error: Exception) -> None:
        """End with an error that is no end of a process."""
        if self.is_closing and isinstance(error, trio.ClosedResourceError | trio.BrokenResourceError):
            return  # the worker has gone, and is needed no more
        if isinstance(error, trio.BrokenResourceError):
            self._kind = trio.BrokenResourceError
        self._block.fail(error)
        self._ask_close("its group is closed", f"{type(error).__name__}: {error}")

    def _give_up(self, member: Member, end: End) -> None:
        make = partial(end.gave_up, member.unit.settings, member.unit.generation, self.failures, in_group=True)
        self._block.fail(make())
        member.leave(None, end.said, end=end, state="gave_up", refusal=make)
        self.nursery.start_soon(member.finish)
        self._ask_close("its group has given up", f"its group has given up: {member.status.name}: {end.said}")

    # ---- the end

    def _ask_close(self, reason: str, said: str) -> None:
        """Have all services stop. Only the first time counts."""
        if not self.is_closing:
            self.is_closing = True
            self._reason, self._why = reason, said
            self._closing.set()
            for line in self._lines.values():
                line.wake()

    def _refusal(self, whose: str) -> Exception:
        return self._kind(f"{whose} is stopped: {self._why}")

    async def _run(self) -> None:
        """Stop all services in reverse order, once that is asked for. Not cancelled from outside."""
        with trio.CancelScope(shield=True):
            await self._closing.wait()
            for line in list(self._lines.values()):
                await line.at_rest.wait()
            for member in reversed(list(self.members.values())):
                member.leave(self._reason, self._why, refusal=partial(self._refusal, member.status.name))
                await member.finish()
            self._gone.set()

    async def leave(self, error: BaseException | None) -> None:
        """Leave the block: stop all services, and return when they are gone, whatever happens to this task.

        Args:
            error: what the block raised.

        Raises:
            Exception: why the block was cancelled from here, if nothing else was raised in it.
            BaseException: what is left of a group without that cancellation.
        """
        await self._block.leave(error, self._close)

    async def _close(self, error: BaseException | None) -> None:
        self._ask_close("its group is closed", "its group has been left")
        await self._scope.close(error, ended=self._gone.wait, kill=self._kill)

    def _kill(self) -> None:
        for member in self.members.values():
            member.unit.hurry()
