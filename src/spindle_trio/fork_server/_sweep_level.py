"""Level `sweep`: the parent of each process adopts and kills what it leaves behind. See `_levels`."""

from __future__ import annotations

import os

from spindle_trio._linux._parent_death import die_with_parent, name_process, outlive_parent
from spindle_trio._linux._syscalls import call
from spindle_trio.fork_server._init import own_children, run_init, sweep
from spindle_trio.fork_server._level import Level, or_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spindle_trio.fork_server._birth import Birth

_PR_SET_CHILD_SUBREAPER = 36


class SweepLevel(Level):
    """`sweep`."""

    name: str = "sweep"
    adopts: bool = True

    def enter_guard(self) -> None:
        """Adopt all orphans below this process."""
        outlive_parent()
        call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        own_children()

    def fork(self, birth: Birth) -> int:
        """Fork an init, which forks the process and adopts what that leaves behind."""
        server = os.getpid()
        pid = os.fork()
        if pid:
            return pid

        def adopt() -> None:
            die_with_parent(server)
            call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

        init = os.getpid()
        return _become_init(birth, adopt, lambda: die_with_parent(init))

    def tidy(self, server: int) -> None:
        """Kill what a killed init has left."""
        if own_children() != [server]:
            sweep(but=server)

    def clear_up(self) -> None:
        """Kill all that is left."""
        sweep()


def _become_init(birth: Birth, prepare: Callable[[], None], become_entry: Callable[[], None]) -> int:
    """Be the init of one process: fork it, and see it through to its end. Returns only in that process, with 0."""
    try:
        os.setsid()
        prepare()
        entry = -1
        try:
            entry = os.fork()
            if entry == 0:
                or_end(become_entry)
                return 0
            own, pidfd = os.pidfd_open(os.getpid()), os.pidfd_open(entry)
        except OSError as error:
            if entry > 0:
                os.kill(entry, 9)
            birth.refuse(error)
            os._exit(1)
        name_process("spindle init")
        birth.announce(own, pidfd)
        run_init(entry, birth)
    except BaseException as error:  # noqa: ASYNC103  # as above
        try:
            os.write(2, f"the init of a process has failed: {error!r}\n".encode())
        finally:
            os._exit(1)  # noqa: ASYNC104
