"""Loads what processes are to find loaded, and makes sure that a fork is still safe afterwards."""

from __future__ import annotations

import os
import sys

# What every process needs is loaded with this module, whatever the list says.
import spindle_trio.child._blocking_runtime  # noqa: F401  # as above
from spindle_trio.child import _program

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from collections.abc import Callable, Sequence
else:
    import _signal as signals  # `signal` would load `enum`


class PreloadError(Exception):
    """A module cannot be preloaded; says which, why, and what to do."""


def preload(modules: Sequence[str], *, known_fds: set[int], announce: Callable[[int], None]) -> None:
    """Import modules one by one, and look after each whether it has left anything behind that makes forking unsafe.

    Args:
        modules: their names.
        known_fds: the descriptors that this program has open.
        announce: told the place of each in the list before it is imported, for it may not come back.

    Raises:
        PreloadError: a module cannot be imported, has started a thread or a process, has opened a descriptor, or has
            closed one that processes need.
    """
    path = list(sys.path)
    _verify("the start of Python itself (a sitecustomize or a .pth file)", "see what it loads", known_fds)
    for number, name in enumerate(modules):
        announce(number)
        try:
            __import__(name)
        except BaseException as error:  # noqa: ASYNC103  # whatever a module raises: the host has to hear of it
            what = f"the module {name!r} cannot be preloaded: take it out of preload=; {_in_words(error)}"
            raise PreloadError(what) from None  # noqa: ASYNC104  # no Trio runs here
        _verify(f"the module {name!r}", "take it out of preload=, and import it in the entry", known_fds)
    sys.path = path  # a module may have put anything in its place
    if "trio" in sys.modules:
        import spindle_trio.child._trio_program
        import spindle_trio.fork_server._rehearsal  # noqa: F401  # all that a spare needs
    _reset_signals()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # what is in a buffer when the server forks would be printed by every process
    _program.prepare_output()


def _in_words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: ASYNC103  # whatever its `__str__` does
        return type(error).__name__  # noqa: ASYNC104  # as above


def _verify(who: str, advice: str, known_fds: set[int]) -> None:
    """Make sure that a fork is safe.

    Args:
        who: what has been loaded, for the error.
        advice: what to do, for the error.
        known_fds: the descriptors that may be open.

    Raises:
        PreloadError: it is not, and says why.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise PreloadError(
            f"{who} has started {threads - 1} thread(s), and a program with threads cannot be forked safely; {advice}"
        )
    children = _own_children()
    if children:
        raise PreloadError(
            f"{who} has started process {', '.join(children)}, which nobody would wait for or end; {advice}"
        )
    open_fds = _open_fds()
    closed = known_fds - open_fds.keys()
    if closed:
        raise PreloadError(f"{who} has closed descriptors that processes need: {sorted(closed)}; {advice}")
    opened = {fd: target for fd, target in open_fds.items() if fd not in known_fds}
    if opened:
        listed = ", ".join(f"{fd} ({target})" for fd, target in sorted(opened.items()))
        raise PreloadError(f"{who} has opened descriptors, which all processes would share: {listed}; {advice}")
    for name in ("stdout", "stderr"):
        if getattr(getattr(sys, name), "closed", True):
            raise PreloadError(f"{who} has closed sys.{name}, or put None in its place; {advice}")


def _own_children() -> list[str]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return file.read().split()
    except FileNotFoundError:
        return []  # the kernel was built without these files


def _open_fds() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the one that the listing itself needed
    return found


def _reset_signals() -> None:
    """Give every signal back what a fresh interpreter does about it, and stop timers that a module has started."""
    for timer in (signals.ITIMER_REAL, signals.ITIMER_VIRTUAL, signals.ITIMER_PROF):
        signals.setitimer(timer, 0)
    signals.set_wakeup_fd(-1)
    for number in signals.valid_signals():
        if number in (signals.SIGKILL, signals.SIGSTOP):
            continue
        handler = signals.getsignal(number)
        if number == signals.SIGINT:
            if handler is not signals.default_int_handler:
                signals.signal(number, signals.default_int_handler)
        elif number in (signals.SIGPIPE, signals.SIGXFSZ):
            if handler != signals.SIG_IGN:
                signals.signal(number, signals.SIG_IGN)
        elif handler is not None and handler != signals.SIG_DFL:
            signals.signal(number, signals.SIG_DFL)
    signals.pthread_sigmask(signals.SIG_SETMASK, ())
