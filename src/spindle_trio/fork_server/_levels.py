"""The four levels of containment. `launchers/_local/_containment.py` ends the trees that they contain.

    pidns   Everything is in one PID namespace, whose first process is the root; each process is in a nested one
            (`_inits`). When the first process of a namespace ends, the kernel kills all others in it before it reports
            that end. So the end of an init implies an empty tree. The root ends with the server, so the end of the
            server implies the end of everything. If the privilege is missing, a user namespace gives it; the user stays
            the same.
    cgroup  Each process has a control group of its own, which is killed as a whole. Needs version 2, delegated.
    sweep   Each process has an init (`_init`), in no namespace. The init adopts orphans (a subreaper), and kills them
            when the process has ended. If an init is killed itself, the guard adopts what is left.
    killpg  Nothing holds the tree together: only the process group and the descendants can be found.

The guard enters a level first, then the server that it forks, and then each process. Nobody can leave a namespace
again, so a copy of the guard tries out whether a level works (`enter_level`).

An entry is never the first process of its namespace: there it could not stop or kill itself (SIGSTOP, SIGKILL), and
would have to reap strangers.
"""

from __future__ import annotations

import os

from spindle_trio.fork_server._cgroup_level import CgroupLevel
from spindle_trio.fork_server._level import Level
from spindle_trio.fork_server._namespace_level import PidNamespaceLevel
from spindle_trio.fork_server._sweep_level import SweepLevel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LEVELS = (PidNamespaceLevel, CgroupLevel, SweepLevel, Level)
"""Strongest first."""


def enter_level(wanted: int) -> tuple[Level | None, dict[str, str]]:
    """Find the strongest level that works here, and enter it as the guard.

    Args:
        wanted: the index in `LEVELS` of the one acceptable level; negative for any.

    Returns:
        The level, or `None`, and why each other level that was tried does not work.
    """
    problems: dict[str, str] = {}
    for kind in LEVELS[wanted : wanted + 1] if wanted >= 0 else LEVELS:
        level = kind()
        problem = _problem_with(kind()) or _enter(level)
        if problem is None:
            return level, problems
        problems[level.name] = problem
    return None, problems


def _enter(level: Level) -> str | None:
    try:
        level.enter_guard()
    except OSError as error:
        return _in_words(error)  # a limit may be used up, even by the attempt just before
    return None


def _problem_with(level: Level) -> str | None:
    """Try a level out in a copy of this program."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        _try_out(level, tell)
    os.close(tell)
    problem = b""
    while data := os.read(told, 4096):
        problem += data
    os.close(told)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if problem:
        return problem.decode(errors="replace")
    return None if status == 0 else f"trying it out has ended with status {status}"


def _try_out(level: Level, tell: int) -> NoReturn:
    try:
        guard = os.getpid()
        level.enter_guard()
        pid = os.fork()
        if pid == 0:
            level.enter_server(guard)
            level.try_out()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        level.clear_up()
        os._exit(0 if code == 0 else 1)
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs here
        os.write(tell, _in_words(error).encode(errors="backslashreplace"))
        try:
            level.clear_up()
        finally:
            os._exit(1)  # noqa: ASYNC104  # no error may reach the code of the guard


def _in_words(error: BaseException) -> str:
    """Say what does not work, and with which file."""
    text = error.strerror if isinstance(error, OSError) else None
    if text and isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {text}"
    return text or str(error) or repr(error)
