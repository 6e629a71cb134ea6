"""A user's block that can be ended from here, with an error that leaves it bare."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from spindle_trio._trio_rules import uninterrupted


@uninterrupted
class Block:
    """The block of one service, or of one group."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        """Refuses the block, or leaves it after it was cancelled."""
        self._scope = trio.CancelScope()

    def enter(self) -> None:
        """Begin it: its user comes next."""
        self._scope.__enter__()

    def fail(self, error: Exception) -> None:
        """Cancel it, and let an error leave it. Only the first one counts."""
        if self.error is None:
            self.error = error
            self._scope.cancel()

    async def leave(
        self, error: BaseException | None, close: Callable[[BaseException | None], Awaitable[object]]
    ) -> None:
        """End it.

        Args:
            error: what its user raised in it.
            close: returns when all that belongs to it is gone; called with what it is left with.

        Raises:
            Exception: why it was cancelled from here, if nothing else was raised in it.
            BaseException: what is left of a group without that cancellation.
        """
        left_with = error
        try:
            if self._scope.__exit__(type(error) if error else None, error, None):
                left_with = None
        except BaseException as others:  # noqa: ASYNC103  # raised below
            left_with = others
        await close(left_with)
        if self.error is not None:
            if left_with is None or _is_cancelled(left_with):
                self.raise_error()
            _add_context(left_with, self.error)
        if left_with is not None and left_with is not error:
            raise left_with

    def raise_error(self) -> NoReturn:
        """Raise its own error."""
        error, self.error = self.error, None
        assert error is not None, "there is one"
        try:
            raise error from error.__cause__
        finally:
            del error  # its traceback has this frame, and with it all that belongs to the block


def _is_cancelled(error: BaseException) -> bool:
    """Whether nothing is in it but cancellation."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


def _add_context(error: BaseException, context: Exception) -> None:
    """Show an error as what happened before another one."""
    if isinstance(error, type(context)):
        return  # who waited in the block has raised it
    while error.__context__ is not None:
        error = error.__context__
    error.__context__ = context
