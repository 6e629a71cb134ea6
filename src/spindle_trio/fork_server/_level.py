"""What every level of containment has in common; the weakest one is nothing else. See `_levels`."""

from __future__ import annotations

import os

from spindle_trio._linux._parent_death import die_with_parent, outlive_parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio.fork_server._birth import Birth


class Level:
    """One level of containment. This one is `killpg`; each other changes what it does better."""

    name: str = "killpg"
    adopts: bool = False
    """Whether the guard becomes the parent of what has lost its own, and has to `tidy`."""
    group: str | None = None
    """The control group of all processes, where there is one, once the guard has entered."""
    lack: str | None = None
    """What it does not give here, once the server has entered, though it works."""

    def enter_guard(self) -> None:
        """Enter this level as the guard, which then outlives its host: it is what ends the tree.

        Raises:
            OSError: this system does not let it.
        """
        outlive_parent()

    def enter_server(self, guard: int) -> None:
        """Enter it as the server.

        Raises:
            OSError: as above.
        """
        die_with_parent(guard)

    def try_out(self) -> None:
        """Make sure, as a server in this level, that processes can be made.

        Raises:
            OSError: they cannot.
        """

    def server_fds(self) -> set[int]:
        """Return the descriptors that the server keeps for this level."""
        return set()

    def roots(self) -> list[int]:
        """Return the numbers of the programs between the guard and the server."""
        return []

    def fork(self, birth: Birth) -> int:
        """Fork a process, and have its birth announced. Returns its number in the server, and 0 in the process.

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
        """Let go, as the server, of what was made for a process that has been reaped."""

    def tidy(self, server: int) -> None:
        """Look, as a guard that adopts, for what has been left behind while the server lives."""

    def clear_up(self) -> None:
        """End, as the guard, what the server has left behind."""


def or_end(step: Callable[[], object]) -> None:
    """Do something in a process that has just been forked, or end it: nothing may come out into the server's code."""
    try:
        step()
    except ProcessLookupError:
        os._exit(1)  # the init or the server was ended meanwhile, and this process with it: there is nothing to tell
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs here
        try:
            os.write(2, f"a forked process could not start: {error!r}\n".encode())
        finally:
            os._exit(1)  # noqa: ASYNC104


def announce_child(birth: Birth, pid: int, init: int | None = None) -> None:
    """Have the host told of a process that is a child of the server."""
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
    """Write to a file of the kernel's; without the layers of `open`, whose pages each fork would copy."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, content.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
