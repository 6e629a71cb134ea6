"""One task that drains the output of all processes of a launcher.

A task for each pipe would have to be started in each spawn and ended at each end, and most processes print nothing.
So the kernel watches all pipes for the one task, which sleeps until something was printed.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio._linux._readiness import LOOK_SECONDS, wait_readable

if TYPE_CHECKING:
    from spindle_trio.launchers._local._output import OutputPipe

__all__ = ["OutputDrains"]

PIPES_AT_A_TIME: Final = 4
"""How many pipes to read, 64 KiB each, before other tasks run. The kernel lets all pipes take turns."""


class OutputDrains:
    """Reads pipes as long as they are added, whatever their processes are doing."""

    def __init__(self) -> None:
        """Begin with none."""
        self._epoll: Final = select.epoll()
        self._pipes: Final[dict[int, OutputPipe]] = {}
        self._unwatched: Final[set[int]] = set()  # the system refused to watch them, so that the task polls
        self._nap = trio.CancelScope()

    def add(self, pipe: OutputPipe) -> None:
        """Drain a pipe from now on, until its end, or until it is closed."""
        self._pipes[pipe.fd] = pipe
        pipe.drained_by(self._remove)
        try:
            self._epoll.register(pipe.fd, select.EPOLLIN)
        except OSError:
            self._unwatched.add(pipe.fd)
            self._nap.cancel()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Drain all pipes; never returns."""
        while True:
            with trio.CancelScope() as self._nap:
                if self._unwatched:
                    await trio.sleep(LOOK_SECONDS)
                else:
                    await wait_readable(self._epoll.fileno())
            self._drain_once()

    def close(self) -> None:
        """Drain nothing any more."""
        self._pipes.clear()
        self._epoll.close()

    def _drain_once(self) -> None:
        ready = [fd for fd, _ in self._epoll.poll(0, PIPES_AT_A_TIME)]
        for fd in (*ready, *self._unwatched):
            pipe = self._pipes[fd]
            pipe.read_once()
            if pipe.at_end:
                self._remove(pipe)

    def _remove(self, pipe: OutputPipe) -> None:
        if self._pipes.pop(pipe.fd, None) is None:
            return  # its end was seen
        if pipe.fd in self._unwatched:
            self._unwatched.remove(pipe.fd)
        else:
            self._epoll.unregister(pipe.fd)  # a copy of the descriptor may live on in a forked program
