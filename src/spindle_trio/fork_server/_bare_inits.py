"""Bare inits: first processes of PID namespaces that share the memory of the root, and so cost next to nothing.

A fork copies an interpreter: 0.6 ms to make, 0.14 to end, and half a MiB, for a process that only waits. A *bare* init
is a clone with the root's memory (`CLONE_VM`) but with descriptors and signals of its own. No Python runs in it, since
there is one interpreter in that memory. It makes a fixed list of calls to the C library, and pauses.

`makecontext` writes each call down with a stack of its own, and with the next call as its successor; `clone` begins
with the first. Until the clone says that it pauses, the root waits in a read. So one at a time uses the memory that
both have, `errno` included. All signals are blocked in the clone, so that no handler ever runs in it.

Decision 23 (`notes/decisions`) judges the risks. Where any of this does not work, the root forks.
"""

from __future__ import annotations

import ctypes
import os
import select

from spindle_trio._linux._parent_death import PR_SET_NAME
from spindle_trio._linux._syscalls import CLONE_NEWNS, CLONE_NEWPID
from spindle_trio.fork_server._own_proc import MOUNTS, PROC_OF_SELF

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from collections.abc import Sequence
else:
    import _signal as signals  # `signal` would load `enum`

_MACHINES = ("x86_64",)
"""Where this has been tried."""

_CLONE_VM = 0x00000100
_SIGCHLD = 17

_READY_MS = 1000
"""Milliseconds that an init may take to be ready, which takes a quarter of one. With an emulator it might hang."""

_LAST_FD = 0x7FFFFFFF

_CONTEXT_BYTES = 1024  # sizeof(ucontext_t) is 968
_STACK_BYTES = 1024  # a system call of the C library takes some 100
_FIRST_STACK_BYTES = 2048
_NUMBER_BYTES = 32

Call = tuple[str, tuple[int | bytes, ...]]
"""A function of the C library, and its arguments."""


class _Stack(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


class _Context(ctypes.Structure):
    """The beginning of the C library's `ucontext_t`, which has the same order on each 64-bit machine."""

    _fields_ = (("flags", ctypes.c_ulong), ("successor", ctypes.c_void_p), ("stack", _Stack))

    successor: int
    stack: _Stack


class BareInits:
    """What the root needs to make bare inits, and the memory of those that live."""

    def __init__(self, name: bytes, *, has_own_proc: bool) -> None:
        """Look up the functions.

        Args:
            name: of the inits, for lists of processes.
            has_own_proc: whether each mounts a `/proc` of its own.

        Raises:
            OSError: this system has not what it takes.
        """
        if os.uname().machine not in _MACHINES or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError("bare inits have not been tried on this machine")
        self._library = ctypes.CDLL(None, use_errno=True)
        self._name = name
        self._has_own_proc = has_own_proc
        self._addresses: dict[str, int | None] = {}
        self._memory: dict[int, tuple[ctypes.Array[ctypes.c_char], ...]] = {}  # by number
        try:
            for function in (
                *("setcontext", "setsid", "mount", "readlink", "open", "write"),
                *("close", "close_range", "prctl", "pause", "_exit"),
            ):
                self._addresses[function] = ctypes.cast(getattr(self._library, function), ctypes.c_void_p).value
            self._make_context = self._library.makecontext
            self._clone = self._library.clone
            get_context = self._library.getcontext
            close_range = self._library.close_range
        except AttributeError as error:
            raise OSError(str(error)) from None
        self._clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        if close_range(_LAST_FD, _LAST_FD, 0):
            raise OSError(ctypes.get_errno(), "close_range")
        # A context holds the signals that are blocked in it.
        self._template = ctypes.create_string_buffer(_CONTEXT_BYTES)
        mask = signals.pthread_sigmask(signals.SIG_BLOCK, signals.valid_signals())
        try:
            if get_context(self._template):
                raise OSError(ctypes.get_errno(), "getcontext")
        finally:
            signals.pthread_sigmask(signals.SIG_SETMASK, mask)

    def make(self, number: int, settings: Sequence[tuple[str, str]]) -> int:
        """Make an init, and wait until it is ready.

        Args:
            number: identifies it for `forget`.
            settings: what it tries to write, and to which files of the kernel's.

        Returns:
            Its pid. It has no parent that must reap it if this program ignores SIGCHLD.

        Raises:
            OSError: it did not come out. A fork can say why.
        """
        seen = ctypes.create_string_buffer(_NUMBER_BYTES)
        told, tell = os.pipe()
        try:
            memory, first = self._write_down(self._calls(seen, told, tell, settings))
            self._memory[number] = memory, seen
            stack = ctypes.addressof(memory) + _FIRST_STACK_BYTES
            flags = _CLONE_VM | CLONE_NEWPID | (CLONE_NEWNS if self._has_own_proc else 0) | _SIGCHLD
            pid = int(self._clone(self._addresses["setcontext"], stack, flags, first))
            if pid < 0:
                self.forget(number)  # nobody runs in it
                raise OSError(ctypes.get_errno(), "clone")
            os.close(tell)
            tell = -1
            answer = select.poll()
            answer.register(told, select.POLLIN)
            is_ready = bool(answer.poll(_READY_MS)) and os.read(told, 1) == b"1"
        finally:
            os.close(told)
            if tell >= 0:
                os.close(tell)
        if not is_ready or (self._has_own_proc and seen.value != b"1"):
            os.kill(pid, signals.SIGKILL)
            raise OSError("an init has ended, or could not mount, or hangs")
        return pid

    def forget(self, number: int) -> None:
        """Free the memory of an init that has ended, if this object has made it."""
        self._memory.pop(number, None)

    def _calls(
        self, seen: ctypes.Array[ctypes.c_char], told: int, tell: int, settings: Sequence[tuple[str, str]]
    ) -> list[Call]:
        calls: list[Call] = [("setsid", ()), ("prctl", (PR_SET_NAME, self._name, 0, 0, 0))]
        if self._has_own_proc:
            calls += [("mount", arguments) for arguments in MOUNTS]
            calls.append(("readlink", (PROC_OF_SELF, ctypes.addressof(seen), _NUMBER_BYTES - 1)))
        for path, text in settings:
            # `open` takes the lowest free number. That is this one: `pipe` has just found it so.
            calls += [
                ("close", (told,)),
                ("open", (path.encode(), os.O_WRONLY)),
                ("write", (told, text.encode(), len(text))),
            ]
        calls += [("write", (tell, b"1", 1)), ("close_range", (0, _LAST_FD, 0)), ("pause", ()), ("_exit", (1,))]
        return calls

    def _write_down(self, calls: list[Call]) -> tuple[ctypes.Array[ctypes.c_char], int]:
        """Write calls down, each with the next as its successor, and return the memory and the address of the first."""
        kept = [argument for _, arguments in calls for argument in arguments if isinstance(argument, bytes)]
        texts = b"".join(text + b"\0" for text in kept)
        steps = len(calls) * (_CONTEXT_BYTES + _STACK_BYTES)
        memory = ctypes.create_string_buffer(_FIRST_STACK_BYTES + steps + len(texts))
        start = ctypes.addressof(memory) + _FIRST_STACK_BYTES
        text_at = start + steps
        ctypes.memmove(text_at, texts, len(texts))
        places: dict[bytes, int] = {}
        for text in kept:
            places[text] = text_at
            text_at += len(text) + 1
        at = 0
        for index in reversed(range(len(calls))):
            function, arguments = calls[index]
            successor, at = at, start + index * (_CONTEXT_BYTES + _STACK_BYTES)
            ctypes.memmove(at, self._template, _CONTEXT_BYTES)
            context = _Context.from_address(at)
            context.successor = successor
            context.stack.start = at + _CONTEXT_BYTES
            context.stack.size = _STACK_BYTES
            words = [places[word] if isinstance(word, bytes) else word for word in arguments]
            self._make_context(
                ctypes.c_void_p(at),
                ctypes.c_void_p(self._addresses[function]),
                len(words),
                *[ctypes.c_void_p(word) for word in words],
            )
        return memory, at
