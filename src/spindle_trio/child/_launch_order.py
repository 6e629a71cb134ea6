"""The first frame that a child reads: its launcher's order, which says what to run.

    {"file": "/…/entry.py", "entry": "entry.py", "processId": "…", "path": [folder, …], "root": "/…",
     "environment": {name: value, …}, "checked": true, "arguments": [text, …]}

`path`, `root` and `environment` are null if the process has them already: an exec'ed one was started with the last two,
and a forked one has its server's. `checked` makes it refuse a root that is behind a link by now; it and `arguments` are
optional. So is `sandbox`, which `_confine` applies before any code of the entry runs:

    {"read": ["/…", …], "write": ["/…", …], "network": "none" | "unix" | "host", "subprocesses": true}

What is in `write` may be read, too; what may be read may be run. The paths are absolute, files or folders, and no part
of one is a link: one that has become a link since is refused. `/proc/self`, which is a link, stands for this process's
own. Network `none` allows no `socket`, only `socketpair`; `unix` also sockets of that family. Two more are optional:
`"notifies": true` allows `none` Unix datagram sockets as well, and `"list": ["/…", …]` names folders whose names may be
listed, with those of all folders in them. The frames of `_exec` have the same field.

So is `limits`, which comes before the sandbox: groups to enter, and limits of the system to set.

    {"groups": ["/sys/fs/cgroup/…", …], "rlimits": {"cpu": seconds, "nofile": n, "fsize": bytes}}

Strings are as in the file system and the environment, with lone surrogates for bytes that are not UTF-8.
"""

from __future__ import annotations

import os
import sys
import time

from spindle_trio._errors import PeerProtocolError
from spindle_trio._linux._command_line import show_command_line
from spindle_trio._linux._parent_death import name_process
from spindle_trio.child._exec import enter_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from spindle_trio._model import JsonValue


def take_on(order: JsonValue) -> str:
    """Prepare this process for an entry, and return the file to run.

    Args:
        order: the decoded frame.

    Raises:
        OSError: the working directory cannot be entered.
        PeerProtocolError: the frame is no order.
    """
    if not isinstance(order, dict):
        raise PeerProtocolError("the first frame from the launcher is not an order")
    file, path = order.get("file"), order.get("path")
    root, environment = order.get("root"), order.get("environment")
    if not isinstance(file, str):
        raise PeerProtocolError("an order that names no file")
    entry = str(order.get("entry"))
    if isinstance(environment, dict):
        replace_environment(environment)
    if isinstance(root, str):
        enter_folder(order)
        show_command_line(
            entry, str(order.get("processId"))
        )  # only a forked process still enters its root, and it has another line
    if "sandbox" in order or "limits" in order:
        from spindle_trio.child._confine import confine

        confine(order)
    name_process(file.rpartition("/")[2])
    folder = file.rpartition("/")[0]
    sys.path[:] = [folder, *(path if isinstance(path, list) else sys.path)]
    arguments = order.get("arguments")
    sys.argv[:] = [entry, *map(str, arguments if isinstance(arguments, list) else ())]
    return file


def replace_environment(environment: Mapping[str, JsonValue]) -> None:
    """Make this the environment, but set only what differs: mostly nothing, and each variable takes system calls."""
    old = dict(os.environ)
    if old == environment:
        return
    for name in old.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if old.get(name) != value:
            os.environ[name] = str(value)
    if old.get("TZ") != environment.get("TZ"):
        time.tzset()
