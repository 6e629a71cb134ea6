"""Only forks: the floor under a fork server that has loaded the same modules, at the same level.

    python fork_floor.py DESCRIPTOR LEVEL [MODULE ...]

It answers commands on a socket: `fork` and `trio` fork a child, which sends `r` itself, without a Trio run or from one;
`end` kills and reaps it; `kill N` forks N children, and answers how many milliseconds it took to kill and reap them.

At level `pidns` it is the first process of a PID namespace, and each child lives in a nested one behind an init that
only waits. At `sweep` each child has such an init as well; at any other level it is a child of this program. To kill a
child with an init, it kills the init.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
from time import perf_counter
from typing import NoReturn

CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
libc = ctypes.CDLL(None, use_errno=True)


class Forks:
    """The children of one level."""

    def __init__(self, level: str) -> None:
        self._has_namespace = level == "pidns"
        self._has_init = level in {"pidns", "sweep"}
        if self._has_namespace:
            enter_namespace()
            self._own = os.open("/proc/self/ns/pid", os.O_RDONLY)

    def fork(self, lane: int, *, with_trio: bool = False) -> int:
        """Fork a child in a session of its own that sends `r` and then waits for its kill."""
        if self._has_namespace:
            libc.unshare(CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if self._has_init and os.fork():
                os.wait()
                os._exit(0)
            report_and_wait(lane, with_trio=with_trio)
        if self._has_namespace:
            libc.setns(self._own, CLONE_NEWPID)
        return pid

    def time_of_killing(self, count: int) -> float:
        """Fork that many, and return how many milliseconds it takes to kill and reap them."""
        read, write = os.pipe()
        pids = [self.fork(write) for _ in range(count)]
        reported = 0
        while reported < count:
            reported += len(os.read(read, count))
        os.close(read)
        os.close(write)
        began = perf_counter()
        end(pids)
        return 1000 * (perf_counter() - began)


def serve(lane: socket.socket, forks: Forks) -> None:
    pids: list[int] = []
    while command := lane.recv(64):
        match command.split():
            case [b"fork"]:
                pids.append(forks.fork(lane.fileno()))
            case [b"trio"]:
                pids.append(forks.fork(lane.fileno(), with_trio=True))
            case [b"end"]:
                end(pids)
                lane.sendall(b"e")
            case [b"kill", count]:
                lane.sendall(b"%f" % forks.time_of_killing(int(count)))


def report_and_wait(lane: int, *, with_trio: bool) -> NoReturn:
    if with_trio:
        import trio

        async def report() -> None:
            os.write(lane, b"r")
            await trio.sleep_forever()

        trio.run(report)
    os.write(lane, b"r")
    signal.pause()
    os._exit(1)


def end(pids: list[int]) -> None:
    for pid in pids:
        os.killpg(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
    pids.clear()


def enter_namespace() -> None:
    """Continue as the first process of a namespace; the process outside waits for its end."""
    if libc.unshare(CLONE_NEWPID):
        user, group = os.geteuid(), os.getegid()
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWPID):
            sys.exit(os.strerror(ctypes.get_errno()))
        for name, content in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        os._exit(0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as socket_to_host:
        children = Forks(sys.argv[2])
        for module in sys.argv[3:]:
            importlib.import_module(module)
        gc.collect()
        gc.freeze()
        socket_to_host.sendall(b"s")
        serve(socket_to_host, children)
