"""The first frame of a process, and how a forked process becomes another program if that frame says so.

    {"command": [path, argument, …], "runs": what, "root": "/…", "environment": {name: value, …},
     "checked": true, "arguments": [text, …]}

The command starts a runtime: `spindle_trio.child.__main__`, or `main.mjs` of `spindle_trio.javascript`. Its further
arguments are the pid of the process's parent, what to run (a module, or a file), the descriptors, and `arguments`. The
last two fields are optional; `checked` makes it refuse a root that is behind a link by now. Later frames belong to that
program, so this module reads the first one to its last byte and no further. Any other first frame is an order
(`_launch_order`).
"""

from __future__ import annotations

import os
import select

from spindle_trio._protocol._frames import with_header
from spindle_trio._protocol._json_text import read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from collections.abc import Mapping
    from typing import NoReturn

    from spindle_trio._model import JsonValue
else:
    import _signal as signals  # `signal` would load `enum`

_HEADER_BYTES = 4


def read_order(control: int, messages: int, page: int, calls: int) -> JsonValue:
    """Read the first frame, and return it if it is an order for this program. Otherwise become another program.

    If there is no such program or folder, or the system refuses, this process reports that to the host, and ends.

    Args:
        control: the control lane.
        messages: the messages lane.
        page: the page for heartbeats.
        calls: the calls lane.
    """
    order = read_json(_read(control, int.from_bytes(_read(control, _HEADER_BYTES), "big")))
    if isinstance(order, dict) and "command" in order:
        _become(order, control, messages, page, calls)
    return order


def enter_folder(order: Mapping[str, JsonValue]) -> None:
    """Enter the working directory that a frame names. A checked one must not have changed.

    Raises:
        OSError: it cannot be entered, or has become a link to elsewhere.
    """
    root = str(order["root"])
    os.chdir(root)
    if order.get("checked") and os.getcwd() != root:
        raise OSError(f"the folder {root!r} was replaced by a link to elsewhere after it was checked")


def _become(order: Mapping[str, JsonValue], *lanes: int) -> NoReturn:
    command, environment = order["command"], order["environment"]
    assert isinstance(command, list)
    assert isinstance(environment, dict)
    try:
        enter_folder(order)
    except OSError as error:
        _fail(lanes[0], f"it cannot run where it should: {error}")
    given = order.get("arguments")
    for fd in lanes:
        os.set_inheritable(fd, True)
    for number in (signals.SIGPIPE, signals.SIGXFSZ):
        signals.signal(number, signals.SIG_DFL)  # Python ignores these, and what it starts would inherit that
    arguments: list[JsonValue] = [*command, os.getppid(), order["runs"], *lanes]
    if isinstance(given, list):
        arguments += given
    if "sandbox" in order or "limits" in order:
        from spindle_trio.child._confine import confine

        try:
            confine(order)
        except OSError as error:
            _fail(lanes[0], str(error.strerror))
    try:
        os.execve(  # noqa: S606  # no shell is what is wanted
            str(command[0]),
            [str(argument) for argument in arguments],
            {name: str(environment[name]) for name in environment},
        )
    except OSError as error:
        from errno import E2BIG  # only after an error: each import takes every process some time

        advice = "; give it shorter arguments and variables, or write them to a file" if error.errno == E2BIG else ""
        _fail(lanes[0], f"the system does not start {command[0]} for it: {error.strerror}{advice}")


def _fail(control: int, why: str) -> NoReturn:
    """Report that no program runs, as the program would, and end."""
    os.write(control, with_header(write_json({"type": "fail", "error": why, "messages": 0}).encode(errors="replace")))
    os._exit(1)


def _read(fd: int, count: int) -> bytes:
    """Read exactly that many bytes."""
    data = b""
    while len(data) < count:
        try:
            chunk = os.read(fd, count - len(data))
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll()
            continue
        if not chunk:
            os._exit(1)  # the host is gone, or does not want this process any more
        data += chunk
    return data
