"""The base of all levels of containment, and the weakest level itself. See `_levels`."""

from __future__ import annotations

import os

from spindle_trio._linux._parent_death import die_with_parent, outlive_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio.fork_server._birth import Birth


class Level:
    """One level of containment. This one is `killpg`; each stronger level overrides what it does better."""

    name: str = "killpg"
    adopts: bool = False
    """Whether the guard adopts orphans, and has to `tidy`."""
    group: str | None = None
    """The control group of all processes, if there is one, once the guard has entered."""
    lack: str | None = None
    """What the level lacks here although it works, once the server has entered."""

    def enter_guard(self) -> None:
        """Enter this level as the guard, which then outlives its host to end the tree.

        Raises:
            OSError: this system does not allow it.
        """
        outlive_parent()

    def enter_server(self, guard: int) -> None:
        """Enter this level as the server.

        Raises:
            OSError: as above.
        """
        die_with_parent(guard)

    def try_out(self) -> None:
        """Make sure, as a server in this level, that it can make processes.

        Raises:
            OSError: it cannot.
        """

    def server_fds(self) -> set[int]:
        """Return the descriptors that the server keeps for this level."""
        return set()

    def roots(self) -> list[int]:
        """Return the pids of the programs between the guard and the server."""
        return []

    def fork(self, birth: Birth) -> int:
        """Fork a process, and announce it to the host. Returns its pid in the server, and 0 in the process.

        Raises:
            OSError: the system has refused, and nothing is left.
        """
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            or_end(lambda: die_with_parent(server))
            return 0
        announce_child(birth, pid)
        return pid

    def forget(self, number: int) -> None:
        """As the server, free what was made for a process that has been reaped."""

    def tidy(self, server: int) -> None:
        """As a guard that adopts, look for orphans while the server lives."""

    def clear_up(self) -> None:
        """As the guard, end what the server has left behind."""


def or_end(step: Callable[[], object]) -> None:
    """Do a step in a process that has just been forked, or end it. No error may reach the server's code."""
    try:
        step()
    except ProcessLookupError:
        os._exit(1)  # the init or the server has ended, and this process with it: nothing to report
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs here
        try:
            os.write(2, f"a forked process could not start: {error!r}\n".encode())
        finally:
            os._exit(1)  # noqa: ASYNC104


def announce_child(birth: Birth, pid: int, init: int | None = None) -> None:
    """Tell the host of a process that is a child of the server."""
    pidfd = -1
    try:
        pidfd = os.pidfd_open(pid)
        birth.announce(pidfd, pidfd if init is None else init)
    except BaseException:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        raise
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def read_kernel_file(path: str) -> str:
    with open(path) as file:
        return file.read()


def write_kernel_file(path: str, content: str) -> None:
    """Write to a file of the kernel's, without the layers of `open`, whose pages each fork would copy."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
