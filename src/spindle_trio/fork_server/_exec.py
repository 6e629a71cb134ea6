"""A forked process that becomes another program, as its first frame says.

    {"command": [path, argument, …], "module": name, "root": "/…", "environment": {name: value, …}}

`spindle_trio.child.__main__` is what the command starts; it is also given the number of the process's parent, the
module, and the descriptors. The frames behind the first one are that program's.
"""

from __future__ import annotations

import os

from spindle_trio._json_text import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from typing import NoReturn

    from spindle_trio._model import JsonValue
else:
    import _signal as signals  # `signal` would load `enum`

_HEADER_BYTES = 4


def wait_and_exec(control: int, messages: int, page: int) -> NoReturn:
    """Read the first frame, and become what it says.

    Args:
        control: the control lane.
        messages: the messages lane.
        page: the page for heartbeats.

    Raises:
        OSError: there is no such program or folder, or the system refuses.
    """
    body = _read(control, int.from_bytes(_read(control, _HEADER_BYTES), "big"))
    order = read_json(body)
    assert isinstance(order, dict)
    command, environment = order["command"], order["environment"]
    assert isinstance(command, list)
    assert isinstance(environment, dict)
    os.chdir(str(order["root"]))
    for fd in (control, messages, page):
        os.set_inheritable(fd, True)
    for number in (signals.SIGPIPE, signals.SIGXFSZ):
        signals.signal(number, signals.SIG_DFL)  # which Python ignores, and what it starts would go on ignoring
    program = str(command[0])
    arguments: list[JsonValue] = [*command, os.getppid(), order["module"], control, messages, page]
    os.execve(  # noqa: S606  # no shell is what is wanted
        program, [str(argument) for argument in arguments], {name: str(environment[name]) for name in environment}
    )


def _read(fd: int, count: int) -> bytes:
    """Read so many bytes, and no more: what follows is for another program."""
    data = b""
    while len(data) < count:
        chunk = os.read(fd, count - len(data))
        if not chunk:
            os._exit(1)  # the host is gone, or does not want this process any more
        data += chunk
    return data
