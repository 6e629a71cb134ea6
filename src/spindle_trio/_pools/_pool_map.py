"""Many calls at once, and their answers one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import trio

from spindle_trio._model import JsonValue
from spindle_trio._trio_rules import uninterrupted

if TYPE_CHECKING:
    from typing import Self

_Outcome: TypeAlias = "tuple[JsonValue, BaseException | None]"


@uninterrupted
class MapRun:
    """Takes the payloads and makes the calls, in a task of the pool's.

    It knows nothing of the map that people hold, so that this can end it when nobody holds it any longer.
    """

    def __init__(
        self,
        call: Callable[[object], Awaitable[JsonValue]],
        payloads: Iterable[object] | AsyncIterable[object],
        *,
        ordered: bool,
        at_once: int,
        room: int,
    ) -> None:
        """Begin with nothing.

        Args:
            call: calls with a payload.
            payloads: are iterated in one task.
            ordered: whether answers are taken in the order of their payloads.
            at_once: how many calls are made at a time.
            room: how many payloads may be taken ahead of their answers.
        """
        self._call = call
        self._payloads = aiter(payloads) if isinstance(payloads, AsyncIterable) else _Plain(iter(payloads))
        self._ordered = ordered
        self._at_once = at_once
        self._room = trio.Semaphore(room)
        self._begun = self._taken = 0
        self._to_call: deque[tuple[int, object]] = deque()
        self._callers = 0
        self._idle_callers = trio.lowlevel.ParkingLot()
        self._there: dict[int, _Outcome] = {}
        self._arrivals: deque[int] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self.is_over: trio.Event = trio.Event()
        """Set when nothing of it goes on any longer."""

    async def run(self) -> None:
        """Take payloads and call, until there are no more."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await self._feed(nursery)
        finally:
            self.is_over.set()
            self._changed.unpark_all()

    async def _feed(self, nursery: trio.Nursery) -> None:
        """Have each payload called with. An error of the payloads stands where the next call would."""
        try:
            try:
                while True:
                    await self._room.acquire()
                    payload = await anext(self._payloads)
                    self._to_call.append((self._next_place(), payload))
                    if self._idle_callers:
                        self._idle_callers.unpark()
                    elif self._callers < self._at_once:
                        self._callers += 1
                        nursery.start_soon(self._make_calls)
            finally:
                self._at_once = 0  # no more callers are needed than there are
                self._idle_callers.unpark_all()
                close = getattr(self._payloads, "aclose", None)
                if close is not None:  # here, in the task in which it was iterated
                    await close()  # noqa: ASYNC102  # as bounded as the user has made it
        except StopAsyncIteration:
            pass
        except trio.Cancelled:
            raise
        except BaseException as error:  # of the user's: he gets it, whatever it is
            self._put(self._next_place(), None, error)

    async def _make_calls(self) -> None:
        """Call with one payload after another: fewer tasks begin than if each call had its own."""
        while True:
            while self._to_call:
                await self._one(*self._to_call.popleft())
            if not self._at_once:
                return
            await self._idle_callers.park()

    def _next_place(self) -> int:
        self._begun += 1
        return self._begun - 1

    async def _one(self, place: int, payload: object) -> None:
        try:
            answer = await self._call(payload)
        except Exception as error:
            self._put(place, None, error)
        else:
            self._put(place, answer, None)

    def _put(self, place: int, answer: JsonValue, error: BaseException | None) -> None:
        self._there[place] = (answer, error)
        self._arrivals.append(place)
        self._changed.unpark_all()

    def take(self) -> _Outcome | None:
        """Take the answer whose turn it is, if it is there."""
        place = self._taken if self._ordered else self._arrivals[0] if self._arrivals else -1
        if place not in self._there:
            return None
        if self._arrivals:
            self._arrivals.popleft()
        self._taken += 1
        self._room.release()
        return self._there.pop(place)

    @property
    def was_ended(self) -> bool:
        """Whether it was ended before its time."""
        return self._scope.cancel_called

    async def wait_changed(self) -> None:
        """Wait until something arrives, or all is over."""
        await self._changed.park()

    def end(self) -> None:
        """Cancel what is under way, and begin nothing more."""
        self._scope.cancel()


class _Plain(AsyncIterator[object]):
    """An ordinary iterator as an asynchronous one."""

    def __init__(self, iterator: Iterator[object]) -> None:
        self._iterator = iterator

    async def __anext__(self) -> object:
        for value in self._iterator:
            return value
        raise StopAsyncIteration


@uninterrupted
class PoolMap(AsyncIterator[JsonValue]):
    """The answers of `Pool.map`: an asynchronous iterator, and a block that closes it."""

    def __init__(self, run: MapRun, begin: Callable[[MapRun], object]) -> None:
        self._run = run
        self._begin = begin
        self._token: trio.lowlevel.TrioToken | None = None  # once it has begun
        self._is_over = False
        self._is_waiting = False

    async def __anext__(self) -> JsonValue:
        """Wait for the next answer, and return it.

        Raises:
            StopAsyncIteration: there are no more, or an error was raised before.
            trio.ClosedResourceError: the pool was closed meanwhile.
            trio.BusyResourceError: another task waits here.
            Exception: what a call, or the iterable of payloads, has raised; it ends the map.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_waiting:
            raise trio.BusyResourceError("another task waits for the next answer of this map")
        if self._is_over:
            raise StopAsyncIteration
        self._is_waiting = True
        try:
            if self._token is None:
                self._begin(self._run)
                self._token = trio.lowlevel.current_trio_token()
            answer, error = await self._next()
            if error is not None:
                raise error
        except BaseException:
            await self._end()  # noqa: ASYNC102  # shielded there; all of it has been cancelled
            raise
        finally:
            self._is_waiting = False
        await trio.lowlevel.cancel_shielded_checkpoint()
        return answer

    async def _next(self) -> _Outcome:
        while (taken := self._run.take()) is None:
            if self._run.is_over.is_set():
                if self._run.was_ended:
                    raise trio.ClosedResourceError("the pool of this map is closed")
                raise StopAsyncIteration
            await self._run.wait_changed()
        return taken

    async def aclose(self) -> None:
        """End it: calls under way are cancelled, and the iteration is over. May be called twice."""
        await self._end()
        await trio.lowlevel.checkpoint()

    async def _end(self) -> None:
        """End it, and wait until nothing of it goes on: that is soon, since all that has been cancelled."""
        self._is_over = True
        self._run.end()
        if self._token is not None:
            with trio.CancelScope(shield=True):
                await self._run.is_over.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()  # noqa: ASYNC102  # as above

    def __del__(self) -> None:
        # Perhaps in another thread, or in the midst of Trio's own work.
        if self._token is not None and not self._is_over:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._run.end)
