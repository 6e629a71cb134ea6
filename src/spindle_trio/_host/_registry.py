"""The index of live processes: which process has which key, and whether there may be another one. Sans-IO.

A *claim* is the right to have one live process. A spawn that holds a key and replaces another waits with its claim
until the other is gone, in order of arrival, and takes over its predecessor's place: a replacement never counts twice.
The key passes from one claim to the next in one step, so that no other spawn can slip in between.

A key can be *kept*: its process has ended by itself, and its claim has the key and the slot still, for a successor that
names that process. A successor that comes to nothing, since its caller was cancelled, gives the key back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TypeGuard

import attrs

from spindle_trio._errors import (
    DuplicateKeyError,
    KeyLostError,
    ProcessAccessError,
    ProcessLimitError,
    SpawnRefusedError,
)
from spindle_trio._host._claims import Claim, Fate, Keeping, KeptKey, Listed, Place
from spindle_trio._model import ProcessFilter, ProcessInfo


@attrs.define(eq=False)
class _Keyed:
    """One key in use: the claim that has it, and those that wait for it."""

    current: Claim
    waiting: OrderedDict[Claim, None] = attrs.field(factory=OrderedDict)
    """In order of arrival. Many of them may give up at once, so this is no list to search."""
    kept: KeptKey | None = None
    """For whom the key is kept, while its last claim has been given up."""


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
        self._kept: dict[str, KeptKey] = {}  # by ended process; also those that may come back to it from a successor
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
        keep: bool = False,
        successor_of: str | None = None,
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
            keep: whether the key is kept when the process ends by itself.
            successor_of: the id of the process whose key was kept for this claim; then `replace` changes nothing.

        Raises:
            DuplicateKeyError: the key is taken, and `replace` is false.
            ProcessLimitError: there are as many processes as the limit allows.
            KeyLostError: no key is kept for a successor of that process.
            ProcessAccessError: that process was another user's.
            SpawnRefusedError: that process had another kind or key.
        """
        place = None if key is None else (user_id, kind, key)
        claim = Claim(place, on_turn, replace_grace)
        if keep or successor_of is not None:
            claim.keeping = Keeping(keep)
            if successor_of is not None:
                assert place is not None, "a successor has the key of its predecessor"
                return self._succeed(claim, claim.keeping, place, successor_of)
        keyed = None if place is None else self._keys.get(place)
        if keyed is not None:
            if not replace:
                raise _duplicate(kind, key, keyed)
            if keyed.kept is not None:
                self._forget(keyed.kept.took)
                self._forget(keyed.kept)
                _pass_on(keyed, claim)
                return claim
            claim.is_waiting = True
            keyed.waiting[claim] = None
            return claim
        if self._held >= self._max_processes:
            raise self._limit_reached()
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

        A key that is to be kept, or goes back to the claim from which it was taken over, keeps its slot.

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
            if claim.keeping is not None and self._keep(keyed, claim, claim.keeping, claim.place):
                return None
            if keyed.waiting:
                successor, _ = keyed.waiting.popitem(last=False)
                successor.is_waiting = False
                _pass_on(keyed, successor)
                return successor
        self._vacate(claim.place)
        return None

    def _vacate(self, place: Place | None) -> None:
        if place is not None:
            del self._keys[place]
        self._held -= 1

    # Keys that are kept.

    def kept_for(self, process_id: str) -> ProcessInfo | None:
        """Return the last snapshot of an ended process whose key is kept, or may come back to it; else `None`."""
        kept = self._kept.get(process_id)
        return None if kept is None else kept.info

    def give_up(self, process_id: str, *, give_back: bool = False) -> None:
        """Keep the key of an ended process no longer. Does nothing if it is not kept.

        If a successor has taken it over, that has it still, but will not give it back.

        Args:
            process_id: which process.
            give_back: whether the key is kept again for the process from which that one had taken it over.
        """
        kept = self._kept.pop(process_id, None)
        if kept is None or self._keys[kept.place].kept is not kept:
            return
        if give_back and self._may_have_back(kept.took):
            _hold(self._keys[kept.place], kept.took)
        else:
            self._forget(kept.took)
            self._vacate(kept.place)

    def _succeed(self, claim: Claim, keeping: Keeping, place: Place, process_id: str) -> Claim:
        """Take over a kept key and its slot."""
        kept = self._kept.get(process_id)
        if kept is not None and kept.place[0] != place[0]:
            raise ProcessAccessError(f"process {process_id} ({kept.info.entry}) belongs to another user")
        if kept is not None and kept.place != place:
            raise SpawnRefusedError(
                f"a successor of {process_id} must have its kind {kept.info.kind!r} and key {kept.info.key!r}"
            )
        if kept is None or self._keys[kept.place].kept is not kept:
            raise self._lost(place, process_id)
        self._forget(kept.took)
        kept.took, keeping.took = None, kept
        _pass_on(self._keys[place], claim)
        return claim

    def _keep(self, keyed: _Keyed, claim: Claim, keeping: Keeping, place: Place) -> bool:
        """Keep the key of a claim that is given up, or give it back; tell whether one of the two was done."""
        holder, took = claim.holder, keeping.took
        if not keyed.waiting:
            if holder is not None and keeping.is_asked and keeping.fate is Fate.KEPT:
                kept = self._kept[holder.process_id] = KeptKey(place, holder.info, took)
                _hold(keyed, kept)
                return True
            if (holder is None or keeping.fate is Fate.GIVEN_BACK) and self._may_have_back(took):
                _hold(keyed, took)
                return True
        self._forget(took)
        return False

    def _may_have_back(self, took: KeptKey | None) -> TypeGuard[KeptKey]:
        return took is not None and took.info.process_id in self._kept

    def _forget(self, kept: KeptKey | None) -> None:
        if kept is not None:
            self._kept.pop(kept.info.process_id, None)

    def _lost(self, place: Place, process_id: str) -> KeyLostError:
        process = self._processes.get(process_id)
        why = "it was stopped or released, or another spawn has taken it"
        if process is not None:
            why = f"that process is {process.state} still"
        return KeyLostError(
            f"the key {place[2]!r} of kind {place[1]!r} is no longer kept for a successor of {process_id}: {why}"
        )

    def _limit_reached(self) -> ProcessLimitError:
        kept = sum(keyed.kept is not None for keyed in self._keys.values())
        but = f", {kept} of them keys that are kept for a next start" if kept else ""
        return ProcessLimitError(
            f"this worker has {self._max_processes} live processes already, as many as the host allows{but};"
            " stop one first, or open the host with a larger max_processes",
            self._max_processes,
        )


def _matches(process: Listed, wanted: ProcessFilter) -> bool:
    return (
        (wanted.user_id is None or wanted.user_id == process.user_id)
        and (wanted.kind is None or wanted.kind == process.kind)
        and (wanted.key is None or wanted.key == process.key)
        and (wanted.state is None or wanted.state is process.state)
    )


def _pass_on(keyed: _Keyed, claim: Claim) -> None:
    last = keyed.current
    claim.last_info = last.last_info if last.holder is None else last.holder.info
    keyed.current, keyed.kept = claim, None


def _hold(keyed: _Keyed, kept: KeptKey) -> None:
    keyed.kept, keyed.current.holder, keyed.current.last_info = kept, None, kept.info


def _duplicate(kind: str, key: str | None, keyed: _Keyed) -> DuplicateKeyError:
    current = keyed.current
    existing = current.last_info if current.holder is None else current.holder.info
    assert existing is not None, "a claim that has its turn has a process, or its predecessor's last snapshot"
    if keyed.kept is not None:
        return DuplicateKeyError(
            f"a process of kind {kind!r} with key {key!r} is kept for its next start ({existing.process_id});"
            " give its key up by release_key, or spawn with replace_existing=True",
            existing,
        )
    found = "is being replaced" if current.holder is None else f"is {existing.state} already"
    return DuplicateKeyError(
        f"a process of kind {kind!r} with key {key!r} {found} ({existing.process_id});"
        " stop it first, or spawn with replace_existing=True",
        existing,
    )
