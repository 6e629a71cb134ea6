"""The program inside a child: from the first frame to the last.

Theory of operation
-------------------

1. The program takes over the lanes and the page; no process that the entry starts will inherit them.
2. The first frame is the launcher's order: which file to run, and in which surroundings, or which program to become
   (`_exec`). The second one, `init`, is the host's, and has the facts. The program reads no more before it knows the
   kind of runtime; bytes that came with it stay in the lane's decoder, which goes with the lane.
3. It sets up `sys.path`, `sys.argv` and the like for the entry, and loads its file. Only that shows whether the entry
   is `async`. A blocking one never loads Trio.
4. The runtime of its kind runs the entry and sends the final word (`_blocking_runtime`, `_async_runtime`).
   `_async_program` has what an `async` entry needs, and the spare that waits for its order with Trio running.
5. The program does what the interpreter would do at its end, while the host can still see it: it joins threads, calls
   functions registered with `atexit`, and flushes output. The last frame, `exiting`, says that all this is done.
6. The host now ends the whole tree at once. If it does not, this process ends itself by `os._exit` half a second later.

If the host is gone, the control lane ends; the next read of it ends this process at once.
"""

from __future__ import annotations

import sys

from spindle_trio.child._callables import is_coroutine_function
from spindle_trio.child._process import ChildProcess, end, load, run_blocking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(control_fd: int, messages_fd: int, page_fd: int, calls_fd: int) -> NoReturn:
    """Run one process, from its first frame to its end.

    Args:
        control_fd: this end of the control lane.
        messages_fd: this end of the messages lane.
        page_fd: the page for heartbeats.
        calls_fd: this end of the calls lane.
    """
    prepare_output()
    run_process(control_fd, messages_fd, page_fd, calls_fd)


def prepare_output() -> None:
    """Set up the output streams for an entry. A fork server does it once, for all its processes."""
    for stream in (sys.stdout, sys.stderr):
        # Line by line: a killed process flushes nothing, and somebody may be reading along.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def run_process(control_fd: int, messages_fd: int, page_fd: int, calls_fd: int) -> NoReturn:
    """Do the same as `main`, in a process with prepared output streams."""
    child = ChildProcess(control_fd, messages_fd, page_fd, calls_fd)
    function = load(child)
    if function is not None and is_coroutine_function(function):
        # Only now: a blocking entry never loads Trio.
        from spindle_trio.child._async_program import run_async

        run_async(child, function)
    elif function is not None:
        run_blocking(child, function)
    end(child)
