"""The lines of `spindle-trio up`: what several services print, say and do, each line with its time and service."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import Final

from spindle_trio.cli._output import Output, printable

_COLOURS: Final = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
"""The numbers of ANSI colours, but for red and those that one background or another hides."""
_LOGGERS: Final = ("spindle_trio.process.stdout", "spindle_trio.process.stderr")
"""Where a host logs what processes print."""


class Sign(Enum):
    """What a line is, in one sign."""

    STDOUT = "|"
    STDERR = "!"
    MESSAGE = ">"
    EVENT = "*"


class ServiceLines:
    """Writes lines of services, one below the other."""

    def __init__(self, output: Output, names: Iterable[str], *, is_coloured: bool) -> None:
        """Begin with no lines.

        Args:
            output: takes the lines.
            names: of all services, in their order.
            is_coloured: whether each has a colour.
        """
        self._output = output
        names = list(names)
        width = max(map(len, names))
        self._columns = {name: name.ljust(width) for name in names}
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names) if is_coloured}
        self._dropped = dict.fromkeys(names, 0)

    def put(self, name: str, sign: Sign, text: str) -> None:
        """Add what a service has to say, however much waits already."""
        if self._dropped[name]:
            count, self._dropped[name] = self._dropped[name], 0
            self._output.put(self._line(name, Sign.EVENT, f"({count} of its lines were not shown: nobody read)"))
        for line in printable(text).splitlines() or [""]:
            self._output.put(self._line(name, sign, line))

    def put_if_read(self, name: str, sign: Sign, text: str) -> None:
        """Add it, unless so much waits for a paused reader that it would take too much memory."""
        if self._output.is_full:
            self._dropped[name] += 1
        else:
            self.put(name, sign, text)

    def _line(self, name: str, sign: Sign, text: str) -> str:
        time = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
        prefix = f"{time} {self._columns[name]} {sign.value}"
        if name in self._colours:
            prefix = f"\x1b[{self._colours[name]}m{prefix}\x1b[0m"
        return f"{prefix} {text}"


@contextmanager
def what_processes_print(lines: ServiceLines) -> Iterator[None]:
    """Take what processes print from the log, for as long as a block lasts.

    Args:
        lines: get each line; the kind of a process has to be the name of its service.
    """
    handler = _PrintedLines(lines)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True


class _PrintedLines(logging.Handler):
    """Takes lines from the log."""

    def __init__(self, lines: ServiceLines) -> None:
        super().__init__(logging.INFO)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line of a process."""
        told = record.__dict__
        text = record.getMessage().removeprefix(f"{told['process_id']}: ").removesuffix("\r")
        self._lines.put_if_read(told["kind"], Sign.STDERR if told["stream"] == "stderr" else Sign.STDOUT, text)
