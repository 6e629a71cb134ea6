"""Functions that a pool runs in its processes: good ones, and others."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def add(first, second=1, *, third=0):
    return first + second + third


async def later(first):
    return first


def describe():
    return os.getpid(), str(Path.cwd()), sys.path


def same(value):
    return value


def raise_key_error(key):
    return {}[key]


class TwoArguments(Exception):
    """Cannot be read back from its pickle."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Unreadable:
    """Can be pickled in the process, and not be read outside of it."""

    def __reduce__(self):
        return (read_in, (os.getpid(),))


def read_in(pid):
    if os.getpid() != pid:
        raise LookupError("not here")
    return Unreadable()


class ReadHere(Exception):
    """As an exception."""

    def __reduce__(self):
        return (read_error_in, (os.getpid(),))


def read_error_in(pid):
    if os.getpid() != pid:
        raise LookupError("not here")
    return ReadHere()


def raise_two():
    raise TwoArguments("one", "two")


def raise_read_here():
    raise ReadHere("text")


def return_lambda():
    return lambda: None


def return_unreadable():
    return Unreadable()


def exit_at_once(code):
    os._exit(code)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(code):
    sys.exit(code)


def hang():
    signal.pause()


def spawn_and_hang():
    os.fork()
    signal.pause()


class Holder:
    @staticmethod
    def double(value):
        return 2 * value

    def twice(self, value):
        return 2 * value


UNNAMED = [lambda: None][0]
