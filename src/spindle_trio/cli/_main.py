"""Runs the command that was typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from spindle_trio.cli._bounds import ContradictionError
from spindle_trio.cli._options import EXIT_REFUSED, call_options, exec_options, run_options, up_options
from spindle_trio.cli._parsers import parse
from spindle_trio.cli._printing import complain, drop_unwritten_errors

_EXIT_INTERRUPTED: Final = 130
_STDERR: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: the words after the program's name; `None` takes them from `sys.argv`.
    """
    _occupy_standard_descriptors()
    command = ""
    try:
        options = parse(arguments)
        command = options.command
        if options.command == "doctor":
            from spindle_trio.cli._doctor import doctor

            return doctor(as_json=options.json)
        if options.command == "types":
            from spindle_trio.cli._types import types

            return types(options.file)
        if options.command == "call":
            from spindle_trio.cli._call import call

            return call(call_options(options))
        if options.command == "exec":
            from spindle_trio.cli._exec import execute

            return execute(exec_options(options))
        if options.command == "up":
            from spindle_trio.cli._up import up

            return up(up_options(options))
        from spindle_trio.cli._run import run

        return run(run_options(options))
    except ContradictionError as error:
        complain(f"{error}; for the options, type: spindle-trio {command} --help", command)
        return EXIT_REFUSED
    except KeyboardInterrupt:  # before or after a command listens for it
        return _EXIT_INTERRUPTED
    finally:
        drop_unwritten_errors()


def _occupy_standard_descriptors() -> None:
    """Open the null device if stdin, stdout or stderr is closed, so that no socket gets its number."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > _STDERR:
            os.close(descriptor)
            break
    if sys.stderr is None:  # Python began without it; print() would write to stdout instead
        sys.stderr = os.fdopen(_STDERR, "w", encoding="utf-8", closefd=False)
