"""Starts a program: forks, makes of the copy what a fresh process should be, and tells whether `exec` succeeded.

`subprocess` would not do: the program has to die with its shim, which only the copy can ask for, between fork and
`exec`. The program stays in its shim's process group. So a kill of the group reaches what it has left behind, and the
shim ignores the signals that the program may send to its whole group (`entry`).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from spindle_trio._linux._descriptors import close_all_but
from spindle_trio._linux._parent_death import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from spindle_trio.program._spec import Spec
if TYPE_CHECKING:
    import signal as signals
else:
    import _signal as signals  # plain numbers: `signal` makes members of enumerations, sixty times

_FIRST_LINE_BYTES: Final = 256
"""How much of a first line Linux looks at."""

_REPORT_BYTES: Final = 4096


class StartError(Exception):
    """The program could not be started; says why."""


class Streams(NamedTuple):
    """The descriptors that become a program's stdin, stdout and stderr."""

    stdin: int
    stdout: int
    stderr: int


def start_program(
    spec: Spec, environment: Mapping[str, str], streams: Streams, confine: Callable[[], None] | None = None
) -> int:
    """Start a program, wait until it runs, and return its pid.

    Args:
        spec: the command.
        environment: all variables of the program.
        streams: stay open here.
        confine: called in the copy last, to give up rights that only the program has to do without.

    Raises:
        StartError: it cannot be started; nothing is left of it.
    """
    shim = os.getpid()
    here, there = os.pipe()  # closed by `exec`
    try:
        pid = os.fork()
    except OSError as error:
        os.close(here)
        os.close(there)
        raise StartError(f"the system makes no process for it: {error.strerror}") from None
    if pid == 0:
        _become_program(spec, environment, streams, shim, there, confine)
    os.close(there)
    with open(here, "rb") as report:
        said = report.read(_REPORT_BYTES)
    if said:
        os.waitpid(pid, 0)
        raise StartError(said.decode(errors="replace"))
    return pid


def _become_program(
    spec: Spec,
    environment: Mapping[str, str],
    streams: Streams,
    shim: int,
    report: int,
    confine: Callable[[], None] | None,
) -> NoReturn:
    """Turn the copy of the shim into the program. Never returns, and never raises."""
    try:
        die_with_parent(shim)
        _reset_signals()
        for target, fd in enumerate(streams):
            os.dup2(fd, target)  # the shim's own three are open, so none of the others is among them
        close_all_but((report,), first=3)
        if spec.folder is not None:
            try:
                os.chdir(spec.folder)
            except OSError as error:
                raise StartError(f"its folder {spec.folder!r} cannot be entered: {error.strerror}") from None
        if confine is not None:
            confine()
        try:
            os.execve(spec.program, spec.argv, dict(environment))  # noqa: S606  # no shell is what is wanted
        except OSError as error:
            raise StartError(_refusal(spec.program, error)) from None
    except StartError as error:
        os.write(report, str(error).encode(errors="replace")[:_REPORT_BYTES])
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs in here
        os.write(report, f"{type(error).__name__}: {error}".encode(errors="replace")[:_REPORT_BYTES])
    finally:
        os._exit(127)


def _reset_signals() -> None:
    """Give every signal its default effect: a program that inherits an ignored SIGTERM could not be stopped.

    What has a handler here has its default effect after `exec` anyway.
    """
    for number in range(1, signals.NSIG):
        if signals.getsignal(number) == signals.SIG_IGN:
            signals.signal(number, signals.SIG_DFL)
    signals.pthread_sigmask(signals.SIG_SETMASK, ())


def _refusal(program: str, error: OSError) -> str:
    """Say why the system does not run a file, and what to do about it."""
    if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ELOOP, errno.ENOEXEC):
        try:
            with open(program, "rb") as file:
                first = file.read(_FIRST_LINE_BYTES).split(b"\n")[0]
        except OSError as unreadable:
            if unreadable.errno == errno.ENOENT:
                return f"there is no {program!r}"
            first = b""
        if first.startswith(b"#!"):
            interpreter = os.fsdecode(first[2:].strip().split(b" ")[0].rstrip(b"\r"))
            carriage = "; the line ends in a carriage return" if first.endswith(b"\r") else ""
            return (
                f"the interpreter {interpreter!r} that the first line of {program!r} names cannot be run: "
                f"{error.strerror}{carriage}"
            )
        if error.errno == errno.ENOEXEC:
            return (
                f"{program!r} is no program that this system runs; a script needs a first line such as #!/bin/sh, or "
                'give it to its interpreter: Command(["sh", …])'
            )
        if error.errno == errno.ENOENT:
            return f"the loader or a library that {program!r} needs is not there"
    if error.errno == errno.E2BIG:
        return "its arguments and variables are too long; write them to a file, or to its stdin"
    return f"the system does not run {program!r}: {error.strerror}"
