"""What a process does to itself before any code of its entry runs, as its order says: it takes on limits and a sandbox.

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
    rehearse_sandbox()


def rehearse_sandbox() -> None:
    """Do what a sandbox takes, but without effect. A spare gets its own copies of the memory for that ahead."""
    from spindle_trio._linux import _capabilities, _landlock, _seccomp

    try:
        _landlock.refuse_threads()
        _landlock.gains_privileges()
        _capabilities.held_capabilities()
        os.close(_landlock.make_rules(["/", "/proc/self"], ["/dev/null"], tcp=False))
        _seccomp.prepare()
    except (OSError, KeyError):
        pass  # there are no sandboxes here, and a spawn with one is refused


def confine(order: Mapping[str, JsonValue]) -> None:
    """Do to this process what its first frame asks for. It has one thread.

    Raises:
        OSError: the kernel refuses, or a path of the sandbox has become a link; the process must not go on.
    """
    limits = order.get("limits")
    if isinstance(limits, dict):
        _limit(limits)
    rules = order.get("sandbox")
    if isinstance(rules, dict):
        apply_sandbox(rules)


def _limit(limits: Mapping[str, JsonValue]) -> None:
    """Enter the groups that hold this process's limits, and have the system hold the others.

    Raises:
        OSError: a group is gone, or the system refuses; the process must not go on.
    """
    groups, rlimits = limits["groups"], limits["rlimits"]
    assert isinstance(groups, list)
    assert isinstance(rlimits, dict)
    for group in groups:
        try:
            fd = os.open(f"{group}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as error:
            raise OSError(error.errno, f"it cannot enter the group of its limits, {group}: {error.strerror}") from error
    if rlimits:
        import resource

        for name, value in rlimits.items():
            assert isinstance(value, int)
            number = getattr(resource, f"RLIMIT_{name.upper()}")
            hard = resource.getrlimit(number)[1]
            is_free = hard == resource.RLIM_INFINITY
            soft = value if is_free else min(value, hard)
            # The signal at the first limit of processor time says what it is for; the second one kills.
            has_room = name == "cpu" and (is_free or soft < hard)
            resource.setrlimit(number, (soft, soft + 1 if has_room else soft))


def apply_sandbox(rules: Mapping[str, JsonValue]) -> None:
    """Put this process, which has one thread, into a sandbox. It cannot be undone, and binds all that it starts.

    Args:
        rules: the sandbox, as `_launch_order` describes it.

    Raises:
        OSError: the kernel refuses, or a path has become a link; the process must not go on.
    """
    from spindle_trio._linux import _capabilities, _landlock, _seccomp  # all of them: in there they may not be found

    read, write, listed = rules["read"], rules["write"], rules.get("list")
    assert isinstance(read, list)
    assert isinstance(write, list)
    try:
        _landlock.refuse_threads()
        _capabilities.drop_capabilities()
        _landlock.restrict(
            map(str, read),
            map(str, write),
            map(str, listed) if isinstance(listed, list) else (),
            tcp=rules["network"] == "host",
        )
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
