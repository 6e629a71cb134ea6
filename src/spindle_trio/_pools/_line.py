"""Who waits for a process, in order."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Line(Generic[T]):
    """A queue that anybody may leave at once, however long it is.

    The first `room` of it are in the queue, and the others wait for room there, in the same order.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._members: OrderedDict[T, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    @property
    def waiting(self) -> int:
        """How many are in the queue."""
        return min(len(self._members), self._room)

    @property
    def held_up(self) -> int:
        """How many wait for room in it."""
        return len(self._members) - self.waiting

    def join(self, member: T, *, at_head: bool = False) -> None:
        """Join it: last, or before all others."""
        self._members[member] = None
        if at_head:
            self._members.move_to_end(member, last=False)

    def leave(self, member: T) -> None:
        """Leave it, from wherever."""
        del self._members[member]

    def pop(self) -> T:
        """Take out who is first."""
        return self._members.popitem(last=False)[0]
