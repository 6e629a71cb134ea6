"""Prints at once, and finds the exit status if that fails."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import suppress
from typing import Final

STDOUT: Final = 1
EXIT_FAILED: Final = 1
_EXIT_NO_READER: Final = 141
"""128 and the number of SIGPIPE, as a shell shows for programs that it ends."""


def print_out(text: str) -> int:
    """Print a text to standard output, and return the exit status: 0 once all of it is written."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(STDOUT, data) :]
    except OSError as error:
        return status_of(error)
    return 0


def status_of(problem: OSError) -> int:
    """Return the exit status for output that cannot be written; say why, unless its reader has left."""
    if problem.errno == errno.EPIPE:
        return _EXIT_NO_READER
    complain(f"the output cannot be written: {problem.strerror}")
    return EXIT_FAILED


def complain(text: str, command: str = "") -> None:
    """Say in one line on standard error what went wrong; if that is closed, do nothing.

    Args:
        text: what went wrong, and what to type.
        command: of `spindle-trio`; none if the whole program is meant.
    """
    print_error(f"{' '.join(['spindle-trio', *command.split()])}: {' '.join(text.split())}")


def print_error(text: str) -> None:
    """Print a text to standard error; if that is closed, do nothing."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def show_log(*, verbose: bool) -> None:
    """Send the log to standard error: warnings, or all of it."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if verbose else logging.WARNING, format="%(name)s: %(message)s"
    )


def drop_unwritten_errors() -> None:
    """Drop what standard error did not take, so that the interpreter does not fail on it at its exit."""
    try:
        sys.stderr.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stderr.fileno())
        os.close(null)
