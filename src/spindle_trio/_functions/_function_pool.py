"""`open_function_pool` and what it yields."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar, cast

import attrs

from spindle_trio._errors import CallError, CallFailedError
from spindle_trio._functions._pickled import from_pickle, name_function, to_pickle
from spindle_trio._model import Limits, SpawnArguments, SpawnOptions
from spindle_trio._open_host import open_host
from spindle_trio._pools._pool import Pool, PoolBlock
from spindle_trio._pools._settings import PoolSettings
from spindle_trio._trio_rules import AsyncBlock, other_thread, uninterrupted

if TYPE_CHECKING:
    from spindle_trio._model import JsonValue, Overrun
    from spindle_trio._pools import PoolStatistics

T = TypeVar("T")

_GIBIBYTE: Final = 1024**3

_ENTRY: Final = "function_pool.py"

_METHOD: Final = "spindle_trio.run_sync"
"""What the handler of all functions is called; errors have the function's name in its place."""


def open_function_pool(
    size: int = 2,
    *,
    prestart: bool = False,
    max_calls: float = math.inf,
    max_idle: float = math.inf,
    max_lifetime: float = math.inf,
    give_up_after: int | None = 8,
    max_bytes: int = _GIBIBYTE,
    startup_timeout: float = 15.0,
) -> AbstractAsyncContextManager[FunctionPool]:
    """Open a pool of processes that run functions of this program's modules, for as long as a block lasts.

    As in ``async with spindle.open_function_pool() as pool: count = await pool.run_sync(count_primes, 1_000_000)``.

    It is for your own code. It trusts its processes: arguments, results and exceptions travel as pickles, and who can
    write a pickle can run any code here. Whatever runs code that you do not trust needs `open_pool` and JSON.

    It opens a host of its own, whose processes fork off a warm server. They have this program's whole environment,
    `sys.path` and current folder, as they are when the block is entered, and import the modules of functions when
    they first need them. Leaving the block ends them, and is bounded, as for `open_pool`.

    Args:
        size: how many processes there may be.
        prestart: as for `open_pool`, as are the next four.
        max_calls: calls after which a process is replaced.
        max_idle: seconds without a call after which a process is stopped.
        max_lifetime: seconds after which a process is replaced.
        give_up_after: how many failures in a row break the pool.
        max_bytes: how many bytes the arguments, or the result, of one call may have as a pickle with its buffers.
        startup_timeout: seconds that a process has to start.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: as `open_host` raises it, on entering.
    """
    spawn = SpawnArguments(startup_timeout=startup_timeout, heartbeat_timeout=math.inf)  # `timeout` is for what hangs
    settings = PoolSettings(
        entry=SpawnOptions(_ENTRY, **spawn).entry,
        serves="functions",
        spawn=spawn,
        size=size,
        prestart=prestart,
        max_calls=max_calls,
        max_idle=max_idle,
        max_lifetime=max_lifetime,
        give_up_after=give_up_after,
    )
    if type(max_bytes) is not int or max_bytes < 1:
        raise ValueError(f"max_bytes must be a number of bytes, 1 or more, not {max_bytes!r}")
    return _FunctionPoolBlock(settings, Limits(binary_bytes=max_bytes))


@uninterrupted
class FunctionPool:
    """Processes that run functions; see `open_function_pool`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._thread = get_ident()

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<FunctionPool size={now.size} idle={now.idle} busy={now.busy} waiting={now.waiting}>"

    async def run_sync(  # type: ignore[explicit-any]  # of a generic function, mypy infers `Never` through a `ParamSpec`
        self,
        function: Callable[..., T],
        /,
        *args: object,
        timeout: float = math.inf,
        overrun: Overrun = "kill",
        **kwargs: object,
    ) -> T:
        """Run a plain function in one of the processes, and return its result.

        As in ``await pool.run_sync(count_primes, 1_000_000, timeout=5.0)``. It is never run twice for one call.

        The function is sent by its module and name, and may be any that a process can import. Arguments and result are
        copies. The buffers of large ones, such as NumPy arrays, travel beside the pickle: leave arguments alone
        until this returns; and an array that arrives, there or here, is read-only: copy it to change it.

        When the time is over, or the caller is cancelled, this goes on at once. The process is killed with all that it
        has started, and replaced: a plain function cannot be told to end.

        Args:
            function: of a module, not of the main program; no lambda, and not defined inside another function.
            *args: for the function; anything that can be pickled.
            timeout: seconds until it is given up; the wait for a process counts.
            overrun: ``"kill"``; or ``"leave"`` to let a function end, which nobody waits for, and its process with it.
            **kwargs: for the function. It gets no `timeout` and no `overrun`.

        Raises:
            Exception: what the function has raised, with a note that has the traceback from the process.
            CallFailedError: the same, where the exception cannot be pickled and read again; or the result cannot.
            CallTimeoutError: no result within `timeout`.
            ProcessLostError: the process ended before the result: it crashed, ran out of memory, or called `os._exit`.
            PoolBrokenError: the processes kept ending.
            PayloadError: the arguments have more than `max_bytes`.
            TypeError: the function is none that a process can import, or an argument cannot be pickled.
            ValueError: `timeout` or `overrun` is out of range.
            trio.ClosedResourceError: the pool is closed.
            RuntimeError: it was called from another thread than Trio's.
        """
        if get_ident() != self._thread:
            raise other_thread("run_sync", "async")
        module, name = name_function(function)
        try:
            payload = to_pickle((args, kwargs))
        except Exception as error:
            raise TypeError(f"an argument of {module}.{name} cannot be pickled: {error}") from error
        payload |= {"module": module, "name": name}
        try:
            answer = await self._pool.call(_METHOD, payload, timeout=timeout, overrun=overrun)
        except CallError as error:
            _name_function(error, f"{module}.{name}")
            raise
        assert isinstance(answer, dict), "the entry is of this package"
        if "error" in answer:
            raise _original(answer)
        return cast("T", from_pickle(answer))

    def statistics(self) -> PoolStatistics:
        """Count what the pool holds, and what it has done so far; see `Pool.statistics`."""
        return self._pool.statistics()


def _name_function(error: CallError, function: str) -> None:
    """Have an error name the function that the caller knows, and not the handler of all of them."""
    error.args = (str(error).replace(repr(_METHOD), repr(function)), *error.args[1:])
    if error.method is not None:
        error.concerning(function, entry=_ENTRY, process_id=error.process_id)


def _original(answer: dict[str, JsonValue]) -> BaseException:
    """Read the exception that a function has raised."""
    traceback = str(answer["traceback"])
    try:
        error = from_pickle(answer["error"])
        assert isinstance(error, BaseException), "the process has looked"
    except Exception as unread:
        first = traceback.partition("\n")[0]
        name, _, text = first.partition(": ")
        said = f"{first} (which cannot be read here: {unread})"
        return CallFailedError(said, error_type=name, text=text, traceback=traceback)
    error.add_note(f"In the process of the pool:\n{traceback}")
    return error


@uninterrupted
class _FunctionPoolBlock(AsyncBlock[FunctionPool]):
    """The life of a pool of functions, with its host."""

    typed = "open_function_pool"

    def __init__(self, settings: PoolSettings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits

    async def __aenter__(self) -> FunctionPool:
        async with AsyncExitStack() as stack:
            host = await stack.enter_async_context(
                open_host(
                    limits=self._limits,
                    environment=dict(os.environ),
                    max_processes=self._settings.size,
                    cancel_grace=0.0,
                    grace_period=1.0,
                )
            )
            worker = await stack.enter_async_context(
                host.open_worker("functions", root=Path(__file__).parent, user_id="functions")
            )
            path = [str(Path(step).absolute()) for step in sys.path]
            spawn = SpawnArguments(**self._settings.spawn, payload={"path": path, "folder": [str(Path.cwd())]})
            pool = await stack.enter_async_context(PoolBlock(worker, attrs.evolve(self._settings, spawn=spawn)))
            self._stack = stack.pop_all()
        return FunctionPool(pool)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)  # noqa: ASYNC102  # as bounded as pool, worker and host are
