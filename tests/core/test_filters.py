"""The filters of system calls, run here as the kernel would run them."""

import os

import pytest

from spindle_trio._linux._seccomp import _REFUSED, build_filter

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
X86_64, AARCH64, I386, X32 = 0xC000003E, 0xC00000B7, 0x40000003, 0x40000000
MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}
NETWORKS = ("none", "unix", "host")

AF_UNIX, AF_INET, AF_NETLINK, AF_TIPC = 1, 2, 16, 30
STREAM, DGRAM, RDM, SEQPACKET, CLOEXEC = 1, 2, 4, 5, 0o2000000

# On x86_64, and on aarch64.
NUMBERS = {
    "read": (0, 63),
    "openat": (257, 56),
    "execve": (59, 221),
    "exit_group": (231, 94),
    "futex": (202, 98),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "close_range": (436, 436),
    "landlock_restrict_self": (446, 446),
    "seccomp": (317, 277),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "clone": (56, 220),
    "clone3": (435, 435),
    "unshare": (272, 97),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "ioctl": (16, 29),
    "prlimit64": (302, 261),
    "truncate": (76, 45),
    "openat2": (437, 437),
}
HARMLESS = list(NUMBERS)[:10]
REFUSED = list(NUMBERS)[10:35]


def run(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Interpret a program of classic BPF for one system call, and return what it says."""
    data = number.to_bytes(4, "little") + architecture.to_bytes(4, "little") + bytes(8)
    data += b"".join(argument.to_bytes(8, "little") for argument in (*arguments, *[0] * 6)[:6])
    lines = [program[start : start + 8] for start in range(0, len(program), 8)]
    place, held = 0, 0
    while True:
        line = lines[place]
        code, yes, no = int.from_bytes(line[:2], "little"), line[2], line[3]
        value = int.from_bytes(line[4:], "little")
        place += 1
        if code == 0x20:
            assert value % 4 == 0
            assert value < len(data)
            held = int.from_bytes(data[value : value + 4], "little")
        elif code == 0x54:
            held &= value
        elif code == 0x06:
            return value
        else:
            is_so = {0x15: held == value, 0x35: held >= value, 0x45: held & value != 0}[code]
            place += yes if is_so else no


def judge(call: str, *arguments: int, machine: str = "x86_64", network: str = "none", **options: bool) -> int:
    program = build_filter(machine, network=network, **{"subprocesses": True} | options)
    return run(program, MACHINES[machine], NUMBERS[call][list(MACHINES).index(machine)], arguments)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("machine", MACHINES)
def test_what_leads_out_of_a_sandbox_is_refused(machine: str, network: str) -> None:
    for call in REFUSED:
        assert judge(call, machine=machine, network=network) == EPERM, call
    assert judge("clone3", machine=machine, network=network) == ENOSYS


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("machine", MACHINES)
def test_what_programs_do_is_allowed(machine: str, network: str) -> None:
    for call in HARMLESS:
        assert judge(call, machine=machine, network=network) == ALLOW, call


@pytest.mark.parametrize("machine", MACHINES)
def test_no_other_call_is_refused(machine: str) -> None:
    program = build_filter(machine, network="host", subprocesses=True)
    column = list(MACHINES).index(machine)
    refused = {number for number in range(1000) if run(program, MACHINES[machine], number) != ALLOW}
    assert refused == {numbers[column] for numbers in _REFUSED.values()} - {None} | {NUMBERS["clone3"][column]}


def test_a_call_in_the_manner_of_another_architecture_kills() -> None:
    for machine, own in MACHINES.items():
        program = build_filter(machine, network="host", subprocesses=True)
        for other in (X86_64, AARCH64, I386):
            assert (run(program, other, 0) == KILL) == (other != own)


def test_the_calls_of_x32_are_none() -> None:
    program = build_filter("x86_64", network="host", subprocesses=True)
    assert {run(program, X86_64, X32 | number) for number in (0, 101, 520)} == {ENOSYS}
    assert run(program, X86_64, 0xFFFFFFFF) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("flag", [0x20000, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30])
def test_new_namespaces_are_refused_among_other_flags_and_in_the_lower_half(machine: str, flag: int) -> None:
    assert judge("clone", flag | 17, machine=machine) == EPERM
    assert judge("unshare", flag | 0x200, machine=machine) == EPERM
    assert judge("unshare", flag | 1 << 40, machine=machine) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_processes_and_threads_are_no_namespaces(machine: str) -> None:
    assert judge("clone", 17, machine=machine) == ALLOW
    assert judge("clone", 0x3D0F00, machine=machine) == ALLOW
    assert judge("unshare", 0x200, machine=machine) == ALLOW
    assert judge("unshare", 0x80, machine=machine) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_without_subprocesses_there_are_threads_and_other_programs(machine: str) -> None:
    assert judge("clone", 17, machine=machine, subprocesses=False) == EPERM
    assert judge("clone", 0x4111, machine=machine, subprocesses=False) == EPERM  # as `posix_spawn` does
    assert judge("clone", 0x3D0F00, machine=machine, subprocesses=False) == ALLOW
    assert judge("clone", 0x3D0F00 | 1 << 28, machine=machine, subprocesses=False) == EPERM
    assert judge("execve", machine=machine, subprocesses=False) == ALLOW
    program = build_filter("x86_64", network="host", subprocesses=False)
    assert {run(program, X86_64, number) for number in (57, 58)} == {EPERM}


@pytest.mark.parametrize("machine", MACHINES)
def test_each_network_has_its_sockets(machine: str) -> None:
    def allowed(network: str, call: str, *, datagrams: bool = False) -> set[tuple[int, int]]:
        return {
            (family, kind)
            for family in (AF_UNIX, AF_INET, AF_NETLINK, AF_TIPC)
            for kind in (STREAM, DGRAM, RDM, SEQPACKET)
            if judge(call, family, kind | CLOEXEC, machine=machine, network=network, datagrams=datagrams) == ALLOW
        }

    of_unix = {(AF_UNIX, kind) for kind in (STREAM, DGRAM, RDM, SEQPACKET)}
    assert allowed("none", "socket") == set()
    assert allowed("none", "socket", datagrams=True) == {(AF_UNIX, DGRAM)}
    assert allowed("unix", "socket") == of_unix
    assert len(allowed("host", "socket")) == 16
    assert allowed("none", "socketpair") == {(AF_UNIX, STREAM), (AF_UNIX, SEQPACKET)}
    assert allowed("none", "socketpair", datagrams=True) == of_unix
    assert allowed("unix", "socketpair") == of_unix
    assert len(allowed("host", "socketpair")) == 16


@pytest.mark.parametrize("machine", MACHINES)
def test_message_queues_by_name_go_with_the_network_of_the_host(machine: str) -> None:
    for call in ("mq_open", "mq_unlink"):
        assert [judge(call, machine=machine, network=network) for network in NETWORKS] == [EPERM, EPERM, ALLOW]


@pytest.mark.parametrize("machine", MACHINES)
def test_nobody_types_into_a_terminal(machine: str) -> None:
    assert judge("ioctl", 0, 0x5412, machine=machine) == EPERM
    assert judge("ioctl", 0, 0x5412 | 1 << 32, machine=machine) == EPERM
    assert judge("ioctl", 0, 0x541C, machine=machine) == EPERM
    assert judge("ioctl", 0x5412, 0x5401, machine=machine) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_a_process_changes_its_own_limits_only(machine: str) -> None:
    assert judge("prlimit64", 0, 7, machine=machine) == ALLOW
    assert judge("prlimit64", 4711, 7, machine=machine) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_a_path_is_cut_short_only_where_landlock_sees_it(machine: str) -> None:
    assert judge("truncate", machine=machine) == ALLOW
    assert judge("truncate", machine=machine, truncate=False) == EPERM
    assert judge("openat2", machine=machine, truncate=False) == ENOSYS
    assert judge("openat", 0, 0, os.O_RDONLY | os.O_TRUNC, machine=machine, truncate=False) == EPERM
    assert judge("openat", 0, 0, os.O_RDWR | os.O_TRUNC, machine=machine, truncate=False) == ALLOW
    assert judge("openat", 0, 0, os.O_RDONLY | os.O_TRUNC, machine=machine) == ALLOW
