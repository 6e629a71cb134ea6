"""The oracle's model of the holder of each key, and of the claims that wait for it, in order."""

from __future__ import annotations

from simulation.scenario import Place


class Keys:
    """The claims of one worker's spawns, each called by its spawn's number: a claim is the right to one process."""

    def __init__(self) -> None:
        self._claims: dict[int, Place | None] = {}
        self._queues: dict[Place, tuple[int, ...]] = {}
        self._before: dict[int, int] = {}

    def copy(self) -> Keys:
        new = Keys()
        new._claims, new._queues, new._before = dict(self._claims), dict(self._queues), dict(self._before)
        return new

    def key(self) -> tuple[object, ...]:
        """Return a key that differs if the state does."""
        return tuple(sorted(self._claims)), tuple(self._queues.items())

    @property
    def taken(self) -> int:
        """How many claims count against the worker's limit: one that waits takes over a place that counts already."""
        return len(self._claims)

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

    def release(self, number: int, *, had_process: bool) -> int | None:
        """Give up a claim; return the one that has the key now."""
        place = self._claims.pop(number)
        queue = () if place is None else self._queues.get(place, ())
        if place is None or not queue:
            return None
        heir, self._queues[place] = queue[0], queue[1:]
        self._claims[heir] = place
        self._before[heir] = number if had_process else self._before[number]
        return heir
