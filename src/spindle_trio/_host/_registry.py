"""The index of live processes: which process has which key, and whether there may be another one. Sans-IO.

A *claim* is the right to have one live process. A spawn that holds a key and replaces another waits with its claim
until the other is gone, in order of arrival, and takes over its predecessor's place: a replacement never counts twice.
The key passes from one claim to the next in one step, so that no other spawn can slip in between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

import attrs

from spindle_trio._errors import DuplicateKeyError, ProcessLimitError
from spindle_trio._model import ProcessFilter, ProcessInfo, ProcessState


class Listed(Protocol):
    """What the registry needs to know of a process."""

    @property
    def process_id(self) -> str:
        """Unique in this registry."""

    @property
    def user_id(self) -> str | None:
        """The owner of the process."""

    @property
    def kind(self) -> str:
        """Its label."""

    @property
    def key(self) -> str | None:
        """Its key."""

    @property
    def state(self) -> ProcessState:
        """Its state."""

    @property
    def info(self) -> ProcessInfo:
        """Its snapshot."""


Place: TypeAlias = tuple[str | None, str, str]
"""User, kind and key, as a tuple: joined into one string, keys of different users could collide."""


@attrs.define(eq=False)
class Claim:
    """The right to have one live process."""

    place: Place | None
    """The key it holds or waits for; `None` for a process without a key."""
    on_turn: Callable[[], None]
    """Called, once, when a claim that had to wait has its turn."""
    replace_grace: float | None = None
    """Seconds that its predecessor has to end; `None` for the predecessor's own grace period."""
    is_waiting: bool = False
    """Whether its predecessor still holds the key."""
    holder: Listed | None = None
    """The process that was launched with it."""
    last_info: ProcessInfo | None = None
    """The predecessor's last snapshot, while this claim has the key and no process."""


@attrs.define(eq=False)
class _Keyed:
    """One key in use: the claim that has it, and those that wait for it."""

    current: Claim
    waiting: OrderedDict[Claim, None] = attrs.field(factory=OrderedDict)
    """In order of arrival. Many of them may give up at once, so this is no list to search."""


class Registry:
    """The processes of one worker."""

    def __init__(self, max_processes: int) -> None:
        """Begin empty.

        Args:
            max_processes: how many claims may be held at a time.
        """
        self._max_processes = max_processes
        self._processes: dict[str, Listed] = {}
        self._keys: dict[Place, _Keyed] = {}
        self._held = 0

    @property
    def queued(self) -> int:
        """How many claims wait for their predecessor."""
        return sum(len(keyed.waiting) for keyed in self._keys.values())

    def find(self, wanted: ProcessFilter) -> list[ProcessInfo]:
        """List the snapshots of the live processes that match every field given, oldest first."""
        return [process.info for process in self._candidates(wanted) if _matches(process, wanted)]

    def _candidates(self, wanted: ProcessFilter) -> Iterable[Listed]:
        """Return the processes that may match: if a whole place is given, only the one that has it."""
        if wanted.user_id is None or wanted.kind is None or wanted.key is None:
            return self._processes.values()
        keyed = self._keys.get((wanted.user_id, wanted.kind, wanted.key))
        return () if keyed is None or keyed.current.holder is None else (keyed.current.holder,)

    def claim(
        self,
        user_id: str | None,
        kind: str,
        key: str | None,
        *,
        replace: bool,
        on_turn: Callable[[], None],
        replace_grace: float | None = None,
    ) -> Claim:
        """Claim a place for one more process.

        A claim whose `is_waiting` is true has to wait for `on_turn`; `holder_of(claim)` still has the key.

        Args:
            user_id: the owner of the process.
            kind: its label.
            key: its key, or `None`.
            replace: whether a process that has the key gives way.
            on_turn: called when a claim that has to wait has its turn.
            replace_grace: how long a process that gives way has to end.

        Raises:
            DuplicateKeyError: the key is taken, and `replace` is false.
            ProcessLimitError: there are as many processes as the limit allows.
        """
        place = None if key is None else (user_id, kind, key)
        claim = Claim(place, on_turn, replace_grace)
        keyed = None if place is None else self._keys.get(place)
        if keyed is not None:
            if not replace:
                raise _duplicate(kind, key, keyed.current)
            claim.is_waiting = True
            keyed.waiting[claim] = None
            return claim
        if self._held >= self._max_processes:
            raise ProcessLimitError(
                f"this worker has {self._max_processes} live processes already, as many as the host allows;"
                " stop one first, or open the host with a larger max_processes",
                self._max_processes,
            )
        self._held += 1
        if place is not None:
            self._keys[place] = _Keyed(claim)
        return claim

    def holder_of(self, claim: Claim) -> Listed | None:
        """Return the process with the key that a claim waits for; `None` while it has not been launched."""
        assert claim.place is not None, "only a claim on a key can wait"
        return self._keys[claim.place].current.holder

    def successors(self, claim: Claim) -> Iterable[Claim]:
        """Return the claims that wait to replace the process of a claim."""
        return () if claim.place is None else self._keys[claim.place].waiting

    def add(self, claim: Claim, process: Listed) -> None:
        """Note the process that is launched with a claim whose turn has come."""
        claim.holder = process
        claim.last_info = None
        self._processes[process.process_id] = process

    def release(self, claim: Claim) -> Claim | None:
        """Give up a claim: its process has ended, or it will have none. Returns the claim whose turn it is now.

        The place has passed on when this returns; the caller tells the other claim, by `on_turn`, once it has
        announced the end.
        """
        if claim.holder is not None:
            del self._processes[claim.holder.process_id]
        if claim.is_waiting:
            assert claim.place is not None, "only a claim on a key can wait"
            del self._keys[claim.place].waiting[claim]
            return None
        if claim.place is not None:
            keyed = self._keys[claim.place]
            if keyed.waiting:
                successor, _ = keyed.waiting.popitem(last=False)
                keyed.current = successor
                successor.is_waiting = False
                successor.last_info = claim.holder.info if claim.holder is not None else claim.last_info
                return successor
            del self._keys[claim.place]
        self._held -= 1
        return None


def _matches(process: Listed, wanted: ProcessFilter) -> bool:
    return (
        (wanted.user_id is None or wanted.user_id == process.user_id)
        and (wanted.kind is None or wanted.kind == process.kind)
        and (wanted.key is None or wanted.key == process.key)
        and (wanted.state is None or wanted.state is process.state)
    )


def _duplicate(kind: str, key: str | None, current: Claim) -> DuplicateKeyError:
    existing = current.last_info if current.holder is None else current.holder.info
    assert existing is not None, "a claim that has its turn has a process, or its predecessor's last snapshot"
    found = "is being replaced" if current.holder is None else f"is {existing.state} already"
    return DuplicateKeyError(
        f"a process of kind {kind!r} with key {key!r} {found} ({existing.process_id});"
        " stop it first, or spawn with replace_existing=True",
        existing,
    )
