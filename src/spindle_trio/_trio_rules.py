"""Keeps Trio's rules: holds back Ctrl-C, and says what is wrong where a program uses this package outside of them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import FunctionType
from typing import ClassVar, NoReturn, TypeVar

import trio

T = TypeVar("T")


def uninterrupted(cls: type[T]) -> type[T]:
    """Hold back Ctrl-C while a method of this class runs: it would leave half of a change behind.

    Waiting is interrupted all the same: Ctrl-C is raised at the next checkpoint of the main task. Trio looks at the
    code that runs, so that a call costs no more than without.
    """
    for member in vars(cls).values():
        if isinstance(member, FunctionType):
            trio.lowlevel.enable_ki_protection(member)
    return cls


class AsyncBlock(AbstractAsyncContextManager[T]):
    """A block for ``async with``, which says so where it is opened in another way."""

    __slots__ = ()

    typed: ClassVar[str]
    """How the call that makes it is typed."""

    def __repr__(self) -> str:
        return f"<async with {self.typed}(…)>"

    def __enter__(self) -> NoReturn:
        raise TypeError(f"this block needs `async with`, not `with`; type: async with {self.typed}(…) as …:")

    def __exit__(self, *error: object) -> None:
        """Never called: entering fails."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)  # asked for by the machinery of Python, or by this block too early
        raise AttributeError(
            f"{name!r} belongs to what the block yields, not to the block; type: async with {self.typed}(…) as …:"
        )

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


def other_thread(call: str) -> RuntimeError:
    """Make the error of a plain call from another thread: none of the objects here may be shared by threads.

    Args:
        call: the name of what was called.
    """
    return RuntimeError(
        f"{call}() was called from the wrong thread; in a thread that Trio started, "
        f"type: trio.from_thread.run_sync(….{call}, …); in any other thread pass trio_token= as well"
    )


def refuse_stream(channel: object, to_type: str) -> None:
    """Refuse a bare stream where a channel is wanted.

    Args:
        channel: what was given.
        to_type: how it is right.

    Raises:
        TypeError: it is a stream.
    """
    if isinstance(channel, trio.abc.Stream):
        raise TypeError(f"this takes a channel, and {channel!r} is a byte stream; type: {to_type}")
