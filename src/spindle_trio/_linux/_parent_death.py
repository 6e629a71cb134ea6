"""Dying with the parent: the kernel kills this process when the thread that started it ends.

The child itself asks the kernel for that, after its `exec`. If the parent died before, no signal would come. So the
child then checks that it still has the expected parent.
"""

from __future__ import annotations

import os
import sys

from spindle_trio._linux._syscalls import call

_PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
_SIGKILL = 9


def die_with_parent(parent: int, *, explain: bool = False) -> None:
    """Make sure that this process ends when its parent does. If the parent has ended already, end at once.

    Args:
        parent: the pid of the parent, as this process sees it: 0 if the parent is outside of its PID namespace.
        explain: whether to explain an immediate end on stderr.

    Raises:
        OSError: the kernel refused.
    """
    if sys.platform == "linux":
        call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        if explain:
            text = (
                f"spindle_trio: process {parent}, which started this one, is not its parent: it has ended, or the "
                "interpreter is a wrapper script; have the script exec Python\n"
            )
            try:
                os.write(2, text.encode())
            except OSError:
                pass
        os._exit(1)


def outlive_parent() -> None:
    """Take `die_with_parent` back."""
    call("prctl", _PR_SET_PDEATHSIG, 0, 0, 0, 0)


def name_process(name: str) -> None:
    """Give this process a name for lists of processes; the kernel keeps 15 bytes. A fork has its parent's name."""
    if sys.platform == "linux":
        call("prctl", PR_SET_NAME, name.encode(errors="replace") + b"\0", 0, 0, 0)
