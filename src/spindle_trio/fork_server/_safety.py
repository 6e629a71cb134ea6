"""Checks that a program can still be forked safely: after Python's own start, and after each preloaded module."""

from __future__ import annotations

import os
import sys


class UnsafeError(Exception):
    """A fork would not be safe, or a level of containment does not work. Says what causes it, and what to do."""


def verify_safe(who: str, advice: str, known_fds: set[int], *, about_threads: str = "") -> None:
    """Make sure that a fork is safe.

    Args:
        who: what was loaded last, for the error.
        advice: what to do, for the error.
        known_fds: the descriptors that may be open.
        about_threads: further advice about threads, put before `advice`.

    Raises:
        UnsafeError: a fork is not safe.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise UnsafeError(
            f"{who} has started {threads - 1} thread(s), and a program with threads cannot be forked safely; "
            f"{about_threads}{advice}"
        )
    children = _own_children()
    if children:
        raise UnsafeError(
            f"{who} has started process {', '.join(children)}, which nothing would wait for or end; {advice}"
        )
    open_fds = _open_fds()
    closed = known_fds - open_fds.keys()
    if closed:
        raise UnsafeError(f"{who} has closed descriptors that processes need: {sorted(closed)}; {advice}")
    opened = {fd: target for fd, target in open_fds.items() if fd not in known_fds}
    if opened:
        listed = ", ".join(f"{fd} ({target})" for fd, target in sorted(opened.items()))
        raise UnsafeError(f"{who} has opened descriptors, which all processes would share: {listed}; {advice}")
    for name in ("stdout", "stderr"):
        if getattr(getattr(sys, name), "closed", True):
            raise UnsafeError(f"{who} has closed sys.{name}, or put None in its place; {advice}")


def _own_children() -> list[str]:
    try:
        with open("/proc/thread-self/children") as file:
            return file.read().split()
    except FileNotFoundError:
        return []  # the kernel was built without these files


def _open_fds() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the descriptor of the listing itself
    return found
