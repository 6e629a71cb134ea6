"""What a forked process does before it reads its first frame."""

from __future__ import annotations

import gc
import os
import sys

from spindle_trio._linux._command_line import show_command_line
from spindle_trio._linux._descriptors import close_all_but
from spindle_trio.child import _program
from spindle_trio.child._exec import read_order
from spindle_trio.child._exit_frames import summarise_error
from spindle_trio.child._process import report
from spindle_trio.fork_server._birth import Birth
from spindle_trio.fork_server._blocking_rehearsal import rehearse_blocking
from spindle_trio.fork_server._read_ahead import expects_trio, read_ahead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def become_process(birth: Birth, ahead: Sequence[str], *, execs: bool) -> NoReturn:
    """Turn the copy of the server into a process of its own. Never returns, and never raises.

    Args:
        birth: its lanes, pipes and page.
        ahead: the files of entries that it may have to run, if it is a spare.
        execs: whether it then becomes another program.
    """
    has_begun = False
    try:
        os.setsid()
        for target, fd in enumerate(birth.output, start=1):
            os.dup2(fd, target)
        close_all_but(birth.lanes, first=3)
        if birth.is_spare:
            show_command_line("spindle-trio", "spare")  # copies the page in advance, so that its launch need not
            if "spindle_trio.child._confine" in sys.modules:
                # The server has loaded it: its processes get sandboxes.
                from spindle_trio.child._confine import rehearse_sandbox

                rehearse_sandbox()
        if execs:
            read_order(*birth.lanes)
            raise ValueError("the first frame names no program")
        _seed_again()
        gc.enable()
        has_begun = True
        if birth.is_spare:
            read_ahead(ahead)
            if "trio" in sys.modules and expects_trio(birth.expected):
                # The server has loaded it already, for all its processes.
                from spindle_trio.child._async_program import run_spare
                from spindle_trio.fork_server._rehearsal import rehearse

                run_spare(*birth.lanes, rehearse)
            rehearse_blocking()
        _program.run_process(*birth.lanes)
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
        what = "the runtime of this process has failed" if has_begun else "a forked process could not start"
        report(f"{what}: {summarise_error(error)}")
    os._exit(1)


def _seed_again() -> None:
    """Make sure that no two processes draw the same random numbers. `random` reseeds itself at every fork."""
    random = sys.modules.get("numpy.random")  # numpy loads it on first use
    if random is not None:
        random.seed()
