"""Preloads modules for processes, and makes sure that a fork is still safe afterwards."""

from __future__ import annotations

import sys

# Every process needs these, so they load with this module, whatever the list says.
import spindle_trio.child._blocking_runtime  # noqa: F401  # as above
from spindle_trio.child import _program
from spindle_trio.fork_server._blocking_rehearsal import rehearse_blocking
from spindle_trio.fork_server._safety import UnsafeError, verify_safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from collections.abc import Callable, Sequence
else:
    import _signal as signals  # `signal` would load `enum`

_ADVICE = "remove it from preload= and import it in the entry"

_ABOUT_THREADS = (
    'tell it to start none, as preload_environment={"OPENBLAS_NUM_THREADS": "1"} tells numpy (other libraries read '
    "OMP_NUM_THREADS or MKL_NUM_THREADS), or "
)

_REHEARSALS = 9
"""An interpreter adapts a function after eight calls."""


def preload(
    modules: Sequence[str],
    folders: list[str],
    *,
    known_fds: set[int],
    announce: Callable[[int], None],
    execs: bool,
) -> None:
    """Import modules one by one, and check after each that a fork is still safe.

    Args:
        modules: their names.
        folders: where to look for them first.
        known_fds: the descriptors that this program has open.
        announce: called with the index of each before it is imported, since the import may never end.
        execs: whether processes become other programs, so that a rehearsal of their lives would gain nothing.

    Raises:
        UnsafeError: a module cannot be imported, has started a thread or a process, has opened a descriptor, or has
            closed one that processes need.
    """
    path = list(sys.path)
    sys.path[:0] = folders
    for number, name in enumerate(modules):
        announce(number)
        try:
            __import__(name)
        except BaseException as error:  # noqa: ASYNC103  # whatever a module raises, the host must hear of it
            what = f"the module {name!r} cannot be preloaded: {_advice(error)}; {_in_words(error)}"
            raise UnsafeError(what) from None  # noqa: ASYNC104  # no Trio runs here
        verify_safe(f"the module {name!r}", _ADVICE, known_fds, about_threads=_ABOUT_THREADS)
    sys.path = path  # a module may have put anything in its place
    if not execs:
        _rehearse(known_fds)
    _reset_signals()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # otherwise every process would print what is in the buffer
    _program.prepare_output()


def _rehearse(known_fds: set[int]) -> None:
    """Do what each spare does, until the interpreter has adapted the code to it.

    Adapting writes to the code. So each process would copy those pages.
    """
    run = rehearse_blocking
    if "trio" in sys.modules:
        import trio

        import spindle_trio.child._async_program  # noqa: F401  # with this, each process has all that it needs
        from spindle_trio.fork_server._rehearsal import rehearse

        def run() -> None:
            trio.run(rehearse)

    try:
        for _ in range(_REHEARSALS):
            run()
    except Exception:  # noqa: S110  # each process tells its host what is wrong, if it still is
        pass
    verify_safe("a process's life, rehearsed in advance,", _ADVICE, known_fds, about_threads=_ABOUT_THREADS)


def _advice(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "add its folder to preload_path=[…], or remove it from preload="
    return "take it out of preload="


def _in_words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: ASYNC103  # whatever its `__str__` does
        return type(error).__name__  # noqa: ASYNC104  # as above


def _reset_signals() -> None:
    """Give every signal the disposition of a fresh interpreter, and stop timers that a module has started."""
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
