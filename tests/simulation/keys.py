"""The oracle's model of the holder of each key, the claims that wait for it, in order, and whom it is kept for."""

from __future__ import annotations

from simulation.scenario import Place


class Keys:
    """The claims of one worker's spawns, each called by its spawn's number: a claim is the right to one process."""

    def __init__(self) -> None:
        self._claims: dict[int, Place | None] = {}
        self._queues: dict[Place, tuple[int, ...]] = {}
        self._before: dict[int, int] = {}
        self._kept: dict[Place, tuple[int, int | None]] = {}  # the ended process, and the one from which it took over
        self._took: dict[int, int] = {}  # claims, and from which process they have taken over their key

    def copy(self) -> Keys:
        new = Keys()
        new._claims, new._queues, new._before = dict(self._claims), dict(self._queues), dict(self._before)
        new._kept, new._took = dict(self._kept), dict(self._took)
        return new

    def key(self) -> tuple[object, ...]:
        """Return a key that differs if the state does."""
        kept = tuple(sorted(self._kept.items())), tuple(sorted(self._took.items()))
        return tuple(sorted(self._claims)), tuple(self._queues.items()), kept

    @property
    def taken(self) -> int:
        """How many claims and kept keys count against the limit: a claim that waits takes over a place that counts."""
        return len(self._claims) + len(self._kept)

    @property
    def is_claimed(self) -> bool:
        """Whether somebody has a claim. Keys are kept as long as their worker is open, and need no end."""
        return bool(self._claims)

    def holder(self, place: Place) -> int | None:
        """Return the claim that has a key, with or without a process yet."""
        return next((number for number, taken in self._claims.items() if taken == place), None)

    def process_before(self, number: int) -> int:
        """Return the process that had the key last, for a claim that has no process yet."""
        return self._before[number]

    def heirs(self, number: int) -> tuple[int, ...]:
        """Return the claims that wait for the key of a claim."""
        place = self._claims[number]
        return () if place is None else self._queues.get(place, ())

    def take(self, number: int, place: Place | None) -> None:
        """Take a free key, or none."""
        self._claims[number] = place

    def wait(self, number: int, place: Place) -> None:
        """Wait for a key, behind all that wait already."""
        self._queues[place] = (*self._queues.get(place, ()), number)

    def leave(self, number: int) -> bool:
        """Stop waiting. Returns false if its turn has come already."""
        if number in self._claims:
            return False
        for place, queue in self._queues.items():
            self._queues[place] = tuple(other for other in queue if other != number)
        return True

    def release(self, number: int, *, had_process: bool, keeps: bool = False, gives_back: bool = False) -> int | None:
        """Give up a claim; return the one that has the key now. Without one, the key may be kept."""
        place, took = self._claims.pop(number), self._took.pop(number, None)
        queue = () if place is None else self._queues.get(place, ())
        if place is None:
            return None
        if not queue:
            if keeps:
                self._kept[place] = number, took
            elif gives_back and took is not None:
                self._kept[place] = took, None
            return None
        heir, self._queues[place] = queue[0], queue[1:]
        self._claims[heir] = place
        self._before[heir] = number if had_process else self._before[number]
        return heir

    # Keys that are kept.

    def kept_at(self, place: Place) -> int | None:
        """Return the process for whose successor a key is kept."""
        return self._kept[place][0] if place in self._kept else None

    def place_of(self, process: int) -> Place | None:
        """Tell which key is kept for the successor of a process, or may come back to it."""
        for place, kept in self._kept.items():
            if process in kept:
                return place
        return next((self._claims[number] for number, took in self._took.items() if took == process), None)

    def succeed(self, number: int, process: int, place: Place) -> None:
        """Take over a kept key."""
        del self._kept[place]
        self._claims[number], self._took[number] = place, process

    def drop(self, place: Place) -> None:
        """Keep a key no longer, for whomever it was."""
        del self._kept[place]

    def give_up(self, process: int, *, give_back: bool = False) -> None:
        """Keep no key for a process, nor let one come back to it."""
        self._took = {number: took for number, took in self._took.items() if took != process}
        for place, (kept, before) in list(self._kept.items()):
            if kept == process:
                del self._kept[place]
                if give_back and before is not None:
                    self._kept[place] = before, None
            elif before == process:
                self._kept[place] = kept, None
