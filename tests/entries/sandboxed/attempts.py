"""What a process in a sandbox tries: each function returns if it has done it, and raises `OSError` if it was refused.

Also a program, for entries in other languages: ``python attempts.py NAME TARGETS`` says what came of it, and exits with
0 if it has done it.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading

NUMBERS = {
    "x86_64": {
        "ptrace": 101,
        "process_vm_readv": 310,
        "mount": 165,
        "unshare": 272,
        "setns": 308,
        "clone": 56,
        "clone3": 435,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "io_uring_setup": 425,
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "pidfd_open": 434,
        "pidfd_getfd": 438,
        "chroot": 161,
        "open_tree": 428,
        "open_by_handle_at": 304,
    },
    "aarch64": {
        "ptrace": 117,
        "process_vm_readv": 270,
        "mount": 40,
        "unshare": 97,
        "setns": 268,
        "clone": 220,
        "clone3": 435,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "io_uring_setup": 425,
        "bpf": 280,
        "perf_event_open": 241,
        "userfaultfd": 282,
        "pidfd_open": 434,
        "pidfd_getfd": 438,
        "chroot": 51,
        "open_tree": 428,
        "open_by_handle_at": 265,
    },
}[platform.machine()]

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def system_call(name, *arguments):
    """Make a system call, and return what it returns."""
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *map(_as_argument, arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _as_argument(value):
    return ctypes.c_long(value) if isinstance(value, int) else value


def in_a_child(function):
    """Do something in a forked copy, so that this process keeps its namespaces."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            function()
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code) if code > 0 else f"killed by signal {-code}")


# ---- files


def read_ssh(at):
    with open(f"{at['home']}/.ssh/id_ed25519") as file:
        file.read()


def list_home(at):
    os.listdir(at["home"])


def write_beside(at):
    with open(f"{at['beside']}/new", "w") as file:
        file.write("here")


def change_beside(at):
    with open(f"{at['beside']}/file", "a") as file:
        file.write("more")


def truncate_beside(at):
    os.truncate(f"{at['beside']}/file", 0)


def truncate_by_opening(at):
    os.close(os.open(f"{at['beside']}/file", os.O_RDONLY | os.O_TRUNC))


def remove_beside(at):
    os.unlink(f"{at['beside']}/removable")


def make_folder_beside(at):
    os.mkdir(f"{at['beside']}/folder")


def move_out(at):
    with contextlib.suppress(OSError), open(f"{at['root']}/movable", "w") as file:
        file.write("moved")
    os.rename(f"{at['root']}/movable", f"{at['beside']}/moved")


def move_in(at):
    os.rename(f"{at['beside']}/movable", f"{at['root']}/moved-in")


def hard_link_out(at):
    link = f"{at['root']}/hard"
    os.link(f"{at['beside']}/file", link)
    with open(link, "a") as file:
        file.write("by a hard link")


def soft_link_out(at):
    link = f"{at['root']}/soft"
    with contextlib.suppress(OSError):
        os.symlink(f"{at['beside']}/file", link)
    with open(link if os.path.islink(link) else f"{at['root']}/ready-link") as file:
        file.read()


def write_by_a_soft_link(at):
    with open(f"{at['root']}/ready-link", "a") as file:
        file.write("by a soft link")


def write_root(at):
    with open(f"{at['root']}/written", "w") as file:
        file.write("here")


def open_by_handle(at):
    handle = (ctypes.c_char * 136)()
    ctypes.c_uint.from_buffer(handle).value = 128
    mount_id = ctypes.c_int()
    path = f"{at['beside']}/file".encode()
    if libc.name_to_handle_at(-100, path, handle, ctypes.byref(mount_id), 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    place = os.open(at["root"], os.O_RDONLY)
    try:
        os.close(system_call("open_by_handle_at", place, handle, os.O_RDONLY))
    finally:
        os.close(place)


# ---- other processes


def proc_environment(at):
    with open(f"/proc/{at['victim']}/environ", "rb") as file:
        file.read()


def proc_command_line(at):
    with open(f"/proc/{at['victim']}/cmdline", "rb") as file:
        file.read()


def proc_memory(at):
    os.close(os.open(f"/proc/{at['victim']}/mem", os.O_RDONLY))


def proc_root(at):
    with open(f"/proc/{at['victim']}/root{at['home']}/.ssh/id_ed25519") as file:
        file.read()


def own_proc_root(at):
    with open(f"/proc/self/root{at['home']}/.ssh/id_ed25519") as file:
        file.read()


def limit_other(at):
    import resource

    resource.prlimit(at["victim"], resource.RLIMIT_NOFILE)


def trace(at):
    in_a_child(lambda: system_call("ptrace", 0x4206, at["victim"], 0, 0))  # PTRACE_SEIZE; the end of the copy detaches


def read_memory(at):
    target = ctypes.create_string_buffer(8)
    place = (ctypes.c_size_t * 2)(ctypes.addressof(target), 8)
    # The address means nothing there. So what is allowed fails with EFAULT, and not with EPERM.
    try:
        system_call("process_vm_readv", at["victim"], place, 1, place, 1, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise


def signal_other(at):
    os.kill(at["victim"], signal.SIGCONT)


def signal_by_pidfd(at):
    pidfd = os.pidfd_open(at["victim"])
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    finally:
        os.close(pidfd)


def take_descriptor(at):
    pidfd = os.pidfd_open(at["victim"])
    try:
        os.close(system_call("pidfd_getfd", pidfd, 0, 0))
    finally:
        os.close(pidfd)


# ---- sockets


def tcp(at):
    socket.create_connection(("127.0.0.1", at["tcp"]), timeout=5).close()


def tcp_listen(at):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()


def udp(at):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"out", ("127.0.0.1", at["udp"]))


def tcp_6(at):
    socket.socket(socket.AF_INET6).close()


def raw_socket(at):
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


def netlink(at):
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


def abstract_socket(at):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + at["abstract"])


def abstract_datagram(at):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"out", "\0" + at["abstract"] + "-datagrams")


def unix_socket(at):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(at["unix"])


def pair_to_another_address(at):
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"out", "\0" + at["abstract"] + "-datagrams")


def reuse_a_pair(at):
    one, other = socket.socketpair()
    other.close()
    with one:
        one.connect(at["unix"])


# ---- the kernel


def io_uring(at):
    os.close(system_call("io_uring_setup", 4, (ctypes.c_char * 120)()))


def mount(at):
    def attempt():
        if system_call("mount", b"none", at["root"].encode(), b"tmpfs", 0, None) == 0:
            libc.umount2(at["root"].encode(), 2)

    in_a_child(attempt)


def open_tree(at):
    os.close(system_call("open_tree", -100, b"/", 1))


def new_user_namespace(at):
    in_a_child(lambda: system_call("unshare", 0x10000000))


def new_mount_namespace(at):
    in_a_child(lambda: system_call("unshare", 0x00020000))


def clone_into_a_namespace(at):
    pid = system_call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clone3_into_a_namespace(at):
    arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, signal.SIGCHLD)
    pid = system_call("clone3", arguments, 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def enter_namespace(at):
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    try:
        system_call("setns", fd, 0)
    finally:
        os.close(fd)


def keyring(at):
    system_call("add_key", b"user", b"spindle-test", b"x", 1, -2)  # the process's own keyring


def read_keyring(at):
    system_call("keyctl", 0, -3, 1)  # the id of the session's keyring


def bpf(at):
    attribute = (ctypes.c_uint32 * 32)(2, 4, 4, 1)  # an array of one element
    os.close(system_call("bpf", 0, attribute, 128))


def performance_events(at):
    attribute = (ctypes.c_uint32 * 32)(1, 128, 0)  # a software clock, of this process
    ctypes.c_uint64.from_buffer(attribute, 40).value = 0b1100000  # without kernel and hypervisor
    os.close(system_call("perf_event_open", attribute, 0, -1, -1, 0))


def page_faults(at):
    os.close(system_call("userfaultfd", 1))


def change_root(at):
    in_a_child(lambda: system_call("chroot", at["root"].encode()))


FILES_READ = (read_ssh, list_home, soft_link_out, proc_root, own_proc_root)
FILES_WRITTEN = (
    *(write_beside, change_beside, truncate_beside, truncate_by_opening, remove_beside, make_folder_beside),
    *(move_out, move_in, hard_link_out, write_by_a_soft_link, open_by_handle),
)
PROCESSES = (
    proc_environment,
    proc_memory,
    trace,
    read_memory,
    signal_other,
    signal_by_pidfd,
    take_descriptor,
    limit_other,
)
SOCKETS = (
    *(tcp, tcp_listen, udp, tcp_6, raw_socket, netlink, abstract_socket, abstract_datagram, unix_socket),
    *(pair_to_another_address,),
)
KERNEL = (
    *(io_uring, mount, open_tree, new_user_namespace, new_mount_namespace, clone_into_a_namespace),
    *(
        clone3_into_a_namespace,
        enter_namespace,
        keyring,
        read_keyring,
        bpf,
        performance_events,
        page_faults,
        change_root,
    ),
)
NEVER = (reuse_a_pair,)
"""What no process can do, whether it is in a sandbox or not."""

FORBIDDEN = (*FILES_READ, proc_command_line, *FILES_WRITTEN, write_root, *PROCESSES, *SOCKETS, *KERNEL)


# ---- what has to work


def imports(at):
    import concurrent.futures  # noqa: F401
    import decimal  # noqa: F401
    import sqlite3  # noqa: F401
    import ssl
    import xml.dom.minidom  # noqa: F401
    import zoneinfo

    ssl.create_default_context()
    zoneinfo.ZoneInfo("UTC")


def threads(at):
    seen = []
    started = [threading.Thread(target=seen.append, args=(number,)) for number in range(4)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert len(seen) == 4


def subprocesses(at):
    said = subprocess.run(["sh", "-c", "ls /usr | cat; echo done"], capture_output=True, text=True, check=True).stdout
    assert said.endswith("done\n")


def other_interpreter(at):
    code = "import json, threading; print(json.dumps(1))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout == "1\n", said.stderr


def signal_own_child(at):
    with subprocess.Popen(["sleep", "60"]) as child:
        child.terminate()


def temporary_files(at):
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write("x")
        file.flush()
        os.rename(file.name, file.name + "2")
        os.link(file.name + "2", file.name)
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/x", "w") as file:
        os.truncate(file.name, 10)


def numpy(at):
    try:
        import numpy as np
    except ModuleNotFoundError:
        return
    assert np.dot(np.ones((64, 64)), np.ones((64, 64))).sum() == 64**3


def socket_pairs(at):
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"x")
        assert other.recv(1) == b"x"


def event_loop(at):
    __import__("asyncio").run(__import__("asyncio").sleep(0))


def multiprocess(at):
    import multiprocessing

    context = multiprocessing.get_context("fork")
    one, other = context.Pipe()
    process = context.Process(target=other.send, args=("x",))
    process.start()
    assert one.recv() == "x"
    process.join()


def devices(at):
    with open("/dev/null", "r+b") as null, open("/dev/urandom", "rb") as random:
        null.write(random.read(8))


def read_root(at):
    with open(f"{at['root']}/data/file") as file:
        file.read()
    os.listdir(at["root"])


def who_am_i(at):
    import pwd
    import time

    pwd.getpwuid(0)
    time.tzset()
    os.sched_getaffinity(0)
    os.cpu_count()


def own_proc(at):
    with open("/proc/self/status") as file:
        file.read()


def file_descriptors_pass(at):
    one, other = socket.socketpair()
    with one, other:
        socket.send_fds(one, [b"x"], [0])
        os.close(socket.recv_fds(other, 1, 1)[1][0])


ALLOWED = (
    *(imports, threads, subprocesses, other_interpreter, signal_own_child, temporary_files, numpy, socket_pairs),
    *(event_loop, multiprocess, devices, read_root, who_am_i, own_proc, file_descriptors_pass),
)

ATTEMPTS = {function.__name__: function for function in (*FORBIDDEN, *NEVER, *ALLOWED)}


def attempt(name, at):
    """Try one thing, and say what came of it."""
    try:
        ATTEMPTS[name](at)
    except OSError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"broken: {error!r}"
    return "done"


if __name__ == "__main__":
    outcome = attempt(sys.argv[1], json.loads(sys.argv[2]))
    print(outcome)
    sys.exit(outcome != "done")
