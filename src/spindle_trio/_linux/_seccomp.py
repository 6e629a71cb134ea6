"""A filter for the system calls of this process, and of all that it starts.

It refuses what no ordinary program needs and what leads out of a sandbox past Landlock. What it does not name is
allowed: a kernel has new calls each year, and programs that run today must run tomorrow.
"""

from __future__ import annotations

import os
import sys

from spindle_trio._linux._landlock import forbid_new_privileges
from spindle_trio._linux._syscalls import call, copy_in_memory, system_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_EPERM, _ENOSYS = 1, 38

_ARCHITECTURES: Mapping[str, tuple[int, int]] = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""What the kernel calls an architecture, and its column below."""

_REFUSED: Mapping[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    # the kernel as a whole
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "fanotify_init": (300, 262),
}
"""Calls that always fail, with EPERM."""

_CLONE, _CLONE3, _UNSHARE = (56, 220), (435, 435), (272, 97)
_FORK, _VFORK = (57, None), (58, None)
_SOCKET, _SOCKETPAIR, _IOCTL, _PRLIMIT = (41, 198), (53, 199), (16, 29), (302, 261)
_MQ_OPEN, _MQ_UNLINK = (240, 180), (241, 181)
"""Message queues have names that all processes share, and that Landlock does not see."""

_OPEN, _OPENAT, _OPENAT2, _TRUNCATE = (2, None), (257, 56), (437, 437), (76, 45)

_NAMESPACES = 0x7E020000
"""The flags that make new namespaces; that of time is `_TIME_NAMESPACE`, and only for `unshare`."""
_TIME_NAMESPACE = 0x80
_AS_THREAD = 0x00010000
_TERMINAL_INPUT = (0x5412, 0x541C)
"""Requests that type into a terminal for its user: TIOCSTI, TIOCLINUX."""

_O_ACCMODE, _O_TRUNC = 0o3, 0o1000

_UNIX = 1
_STREAM, _DATAGRAM, _PACKETS = 1, 2, 5

_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x54, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_SET_FILTER = 22

_GROUP = 8
"""How many rules to skip at once."""

_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16


def is_known_architecture() -> bool:
    """Whether there are numbers of system calls for this machine, as a program of 64 bits sees it."""
    return os.uname().machine in _ARCHITECTURES and sys.maxsize > 2**32


def require() -> None:
    """Make sure that this kernel filters system calls, and can fail them.

    Raises:
        OSError: it cannot.
    """
    number = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
    system_call(number, 2, 0, _FAIL.to_bytes(4, "little"))  # SECCOMP_GET_ACTION_AVAIL


def install(*, network: str, subprocesses: bool, datagrams: bool = False, truncate: bool = True) -> None:
    """Install the filter for this process, which has one thread. It cannot be undone.

    Args:
        network: ``"none"``, ``"unix"`` or ``"host"``, as in `Sandbox`.
        subprocesses: whether it may start processes.
        datagrams: whether `"none"` allows Unix datagram sockets.
        truncate: whether files may be cut short by their path; `False` where Landlock cannot tell which.

    Raises:
        OSError: the kernel refuses.
    """
    program = _built(network=network, subprocesses=subprocesses, datagrams=datagrams, truncate=truncate)
    count = len(program) // 8
    forbid_new_privileges()
    address, copy = copy_in_memory(program)
    call("prctl", _SET_FILTER, 2, count.to_bytes(8, "little") + address.to_bytes(8, "little"), 0, 0)
    del copy


def prepare() -> None:
    """Write the filters of the presets ahead."""
    if is_known_architecture():
        copy_in_memory(_built(network="none", subprocesses=True, datagrams=False, truncate=True))


_ready: dict[tuple[str, bool, bool, bool], bytes] = {}


def _built(*, network: str, subprocesses: bool, datagrams: bool, truncate: bool) -> bytes:
    """Write a filter, or take the one that was written before."""
    rules = network, subprocesses, datagrams, truncate
    program = _ready.get(rules)
    if program is None:
        program = _ready[rules] = build_filter(
            os.uname().machine,
            network=network,
            subprocesses=subprocesses,
            datagrams=datagrams,
            truncate=truncate,
        )
    return program


def build_filter(
    machine: str, *, network: str, subprocesses: bool, datagrams: bool = False, truncate: bool = True
) -> bytes:
    """Write a filter as the kernel takes it: instructions of 8 bytes each. Depends on nothing but its arguments.

    Args:
        machine: a name of `os.uname().machine`.
        network: as for `install`, and so are the others.
        subprocesses: see there.
        datagrams: see there.
        truncate: see there.
    """
    architecture, column = _ARCHITECTURES[machine]
    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, architecture, 1, 0),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER),
    ]
    if column == 0:
        lines += [_line(_AT_LEAST, 0x40000000, 0, 1), _line(_RETURN, _FAIL | _ENOSYS)]  # another way to the same calls
    rules = [(numbers[column], _fail(_EPERM)) for numbers in _REFUSED.values()]
    rules += [
        (_CLONE3[column], _fail(_ENOSYS)),  # its flags are behind a pointer; libraries then use `clone`
        (_CLONE[column], _if_bits(0, _NAMESPACES, _EPERM) + ([] if subprocesses else _unless_thread())),
        (_UNSHARE[column], _if_bits(0, _NAMESPACES | _TIME_NAMESPACE, _EPERM)),
        (_IOCTL[column], [line for request in _TERMINAL_INPUT for line in _if_equal(1, request, _EPERM)]),
        (_PRLIMIT[column], [_argument(0), _line(_EQUAL, 0, 1, 0), *_fail(_EPERM)]),  # only its own
    ]
    if not subprocesses:
        rules += [(numbers[column], _fail(_EPERM)) for numbers in (_FORK, _VFORK)]
    if network != "host":
        rules += [(numbers[column], _fail(_EPERM)) for numbers in (_MQ_OPEN, _MQ_UNLINK)]
        rules.append((_SOCKET[column], _sockets(network, datagrams=datagrams)))
        pairs = _only_streams() if network == "none" and not datagrams else []
        rules.append((_SOCKETPAIR[column], [*_only_unix(), *pairs]))  # those of TIPC reach other machines
    if not truncate:
        rules += [
            (_TRUNCATE[column], _fail(_EPERM)),
            (_OPENAT2[column], _fail(_ENOSYS)),  # its flags are behind a pointer
            (_OPENAT[column], _not_for_truncation(2)),
            (_OPEN[column], _not_for_truncation(1)),
        ]
    return b"".join([*lines, *_dispatch(rules)])


def _dispatch(rules: list[tuple[int | None, list[bytes]]]) -> list[bytes]:
    """Write what to do at which call; all others are allowed.

    The kernel runs a filter for every number when it is installed, so each number passes most rules in groups.
    """
    known = sorted((number, then) for number, then in rules if number is not None)
    lines: list[bytes] = []
    for start in range(0, len(known), _GROUP):
        group = [line for number, then in known[start : start + _GROUP] for line in _on(number, then)]
        group.append(_line(_RETURN, _ALLOW))
        following = known[start + _GROUP : start + _GROUP + 1]
        if following:
            lines.append(_line(_AT_LEAST, following[0][0], len(group), 0))
        lines += group
    return lines


def _line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return code.to_bytes(2, "little") + bytes((yes, no)) + value.to_bytes(4, "little")


def _on(number: int, then: list[bytes]) -> list[bytes]:
    """Do something at one call, and let it pass if that does not refuse it."""
    if then[-1][:2] != _RETURN.to_bytes(2, "little") or len(then) > 1:
        then = [*then, _line(_RETURN, _ALLOW)]
    return [_line(_EQUAL, number, 0, len(then)), *then]


def _fail(error: int) -> list[bytes]:
    return [_line(_RETURN, _FAIL | error)]


def _argument(index: int) -> bytes:
    """Load the lower half of an argument."""
    return _line(_LOAD, _FIRST_ARGUMENT + 8 * index)


def _if_bits(index: int, bits: int, error: int) -> list[bytes]:
    return [_argument(index), _line(_ANY_BIT, bits, 0, 1), *_fail(error)]


def _if_equal(index: int, value: int, error: int) -> list[bytes]:
    return [_argument(index), _line(_EQUAL, value, 0, 1), *_fail(error)]


def _not_for_truncation(index: int) -> list[bytes]:
    """Refuse to open a file for reading that is cut short by that: `O_TRUNC` with no right to write."""
    return [_argument(index), _line(_AND, _O_TRUNC | _O_ACCMODE), _line(_EQUAL, _O_TRUNC, 0, 1), *_fail(_EPERM)]


def _unless_thread() -> list[bytes]:
    return [_argument(0), _line(_ANY_BIT, _AS_THREAD, 1, 0), *_fail(_EPERM)]


def _sockets(network: str, *, datagrams: bool) -> list[bytes]:
    if network == "none" and not datagrams:
        return _fail(_EPERM)
    lines = _only_unix()
    if network == "none":
        lines += [_argument(1), _line(_AND, 0xF), _line(_EQUAL, _DATAGRAM, 1, 0), *_fail(_EPERM)]
    return lines


def _only_unix() -> list[bytes]:
    return [_argument(0), _line(_EQUAL, _UNIX, 1, 0), *_fail(_EPERM)]


def _only_streams() -> list[bytes]:
    """Refuse pairs of sockets that can send to another address than the other one of the pair."""
    return [
        _argument(1),
        _line(_AND, 0xF),
        _line(_EQUAL, _STREAM, 2, 0),
        _line(_EQUAL, _PACKETS, 1, 0),
        *_fail(_EPERM),
    ]
