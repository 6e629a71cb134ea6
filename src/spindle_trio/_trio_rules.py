"""Keeps Trio's rules: holds back Ctrl-C, and raises clear errors if a program breaks the rules."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import FunctionType
from typing import ClassVar, Final, Literal, NoReturn, TypeVar

import trio

T = TypeVar("T")


def uninterrupted(cls: type[T]) -> type[T]:
    """Hold back Ctrl-C while a method of this class runs: it would leave half of a change behind.

    Ctrl-C still interrupts waiting: it is raised at the next checkpoint of the main task. Trio inspects the running
    code, so calls cost nothing more.
    """
    for member in vars(cls).values():
        if isinstance(member, FunctionType):
            trio.lowlevel.enable_ki_protection(member)
    return cls


class AsyncBlock(AbstractAsyncContextManager[T]):
    """A block for ``async with``, which raises a clear error if it is opened in another way."""

    __slots__ = ()

    typed: ClassVar[str]
    """The call that makes it, as typed."""

    def __repr__(self) -> str:
        return f"<async with {self.typed}(…)>"

    def __enter__(self) -> NoReturn:
        raise TypeError(f"this block needs `async with`, not `with`; type: async with {self.typed}(…) as …:")

    def __exit__(self, *error: object) -> None:
        """Never called: entering fails."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)  # looked up by Python itself, or by this block too early
        raise AttributeError(
            f"{name!r} belongs to what the block yields, not to the block; type: async with {self.typed}(…) as …:"
        )

    def __aiter__(self) -> NoReturn:
        raise TypeError(f"this is a block, and cannot be iterated; type: async with {self.typed}(…) as …:")

    def __await__(self) -> NoReturn:
        raise TypeError(
            f"this is an async context manager and cannot be awaited; type: async with {self.typed}(…) as …:"
        )


def require_trio() -> None:
    """Refuse a program that does not run under Trio.

    Raises:
        RuntimeError: says how to start it.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(
            "spindle_trio runs under Trio, and this code does not run in a Trio task (is it under asyncio?); "
            "type: trio.run(main), in place of asyncio.run(main) and the like"
        )


_FROM_A_THREAD: Final = {
    "plain": "type: trio.from_thread.run_sync(….{call}, …)",
    "async": "type: trio.from_thread.run(….{call}, …)",
    "reader": "put what uses {call}() into an async function, and type: trio.from_thread.run(that_function)",
}


def other_thread(call: str, kind: Literal["plain", "async", "reader"] = "plain") -> RuntimeError:
    """Make the error for a call from another thread: threads may not share any of these objects.

    Args:
        call: the name of the method.
        kind: what it is: a plain function, an async one, or one that returns what an async function uses.
    """
    return RuntimeError(
        f"{call}() was called from the wrong thread; in a thread that Trio started, "
        f"{_FROM_A_THREAD[kind].format(call=call)}; in any other thread pass trio_token= as well"
    )


def refuse_stream(channel: object, to_type: str) -> None:
    """Refuse a bare stream where a channel is wanted.

    Args:
        channel: the argument.
        to_type: the right call.

    Raises:
        TypeError: it is a stream.
    """
    if isinstance(channel, trio.abc.Stream):
        raise TypeError(f"this takes a channel, and {channel!r} is a byte stream; type: {to_type}")
