"""What a process does to itself before any code of its entry runs, as its order says: it goes into its sandbox.

Its modules are loaded by the processes that need them.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from spindle_trio._model import JsonValue


def prepare() -> None:
    """Do ahead what takes time; a fork server does it once for all its processes."""
    from spindle_trio._linux import _capabilities, _landlock, _seccomp  # noqa: F401  # for those that are forked later

    _seccomp.prepare()


def confine(order: Mapping[str, JsonValue]) -> None:
    """Do to this process what its first frame asks for. It has one thread.

    Raises:
        OSError: the kernel refuses, or a path of the sandbox has become a link; the process must not go on.
    """
    rules = order.get("sandbox")
    if isinstance(rules, dict):
        apply_sandbox(rules)


def apply_sandbox(rules: Mapping[str, JsonValue]) -> None:
    """Put this process, which has one thread, into a sandbox. It cannot be undone, and binds all that it starts.

    Args:
        rules: the sandbox, as `_launch_order` describes it.

    Raises:
        OSError: the kernel refuses, or a path has become a link; the process must not go on.
    """
    from spindle_trio._linux import _capabilities, _landlock, _seccomp  # all of them: in there they may not be found

    read, write = rules["read"], rules["write"]
    assert isinstance(read, list)
    assert isinstance(write, list)
    if len(os.listdir("/proc/self/task")) != 1:
        raise OSError(0, "it cannot go into its sandbox: it has other threads, which would stay outside")
    try:
        _capabilities.drop_capabilities()
        _landlock.restrict(map(str, read), map(str, write), tcp=rules["network"] == "host")
        _seccomp.install(
            network=str(rules["network"]),
            subprocesses=rules["subprocesses"] is not False,
            datagrams=rules.get("notifies") is True,
            truncate=_landlock.version() >= 3 or "/" in write,
        )
    except OSError as error:
        raise OSError(error.errno, f"it cannot go into its sandbox: {error.strerror}") from error


def forbid_subprocesses() -> None:
    """Have this process, which is in a sandbox that allows it to start processes, do so no more.

    Raises:
        OSError: the kernel refuses; the process must not go on.
    """
    from spindle_trio._linux import _seccomp

    _seccomp.install(network="host", subprocesses=False)  # the other filter holds, too
