"""The pid of a process in `/proc`, and its pid in the system calls of this program.

The two differ if this program lives in a PID namespace and sees the `/proc` of another one: for example a host that is
an entry of another host, at level `pidns`, without a `/proc` of its own. Confusing the two would signal the wrong
process.
"""

from __future__ import annotations

import os


def number_from_proc(pid: int) -> int:
    """Return the number that system calls take for a process.

    Args:
        pid: its number in `/proc`.

    Raises:
        OSError: there is no such process, or no number for it here.
    """
    if os.readlink("/proc/self") == str(os.getpid()):
        return pid
    # The lists begin at the namespace of `/proc` and lead inwards; this program's own has the same place in both.
    numbers, own = _numbers(str(pid)), _numbers("self")
    if not own or len(numbers) < len(own):
        raise ProcessLookupError
    return numbers[len(own) - 1]


def _numbers(name: str) -> list[int]:
    fd = os.open(f"/proc/{name}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 65536)
    finally:
        os.close(fd)
    for line in text.splitlines():
        if line.startswith(b"NSpid:"):
            return [int(number) for number in line.split()[1:]]
    return []
