"""A function that plays the program of a command, in virtual time. Loaded with the first command.

It stands behind what the shim of real commands says and does (`spindle_trio.program`), with the same words. What is
missing is bytes: lanes carry their messages as they are.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import trio

from spindle_trio._model._command import Http, Line, Tcp
from spindle_trio.child._exit_frames import encode_stopped
from spindle_trio.program._ending import judge
from spindle_trio.program._notify import read_notification
from spindle_trio.program._readiness import LineSearch
from spindle_trio.program._reports import Reports
from spindle_trio.testing._scripted_json_rpc import JsonRpcEnd

if TYPE_CHECKING:
    from spindle_trio._messages._channel import MessageReceiveChannel
    from spindle_trio._model import JsonValue
    from spindle_trio._model._command import Command
    from spindle_trio.abc import LaunchOrder
    from spindle_trio.child import ProcessContext
    from spindle_trio.testing._memory_entry import MemoryEntry

__all__ = ["CommandScript", "ScriptedProgram", "playing"]

_DEFAULT_GRACE = 5.0


class ScriptedProgram:
    """What a script of a `MemoryLauncher` holds of the program that it plays.

    A script is an ``async def script(program)``. What it returns is the exit code; `None` means 0. It is cancelled
    when its process is killed, and by the command's stop signal unless it has called `wait_signal`: as a program that
    does not handle it. An error that it raises fails the process.

    Attributes:
        command: The command, as it was spawned.
        argv: Its program and arguments.
        environment: The whole environment of the program.
        folder: Where it runs.
    """

    def __init__(self, process: ProcessContext, order: LaunchOrder, command: Command) -> None:
        """Made by the launcher, for each launch."""
        self.command: Command = command
        self.argv: tuple[str, ...] = tuple(command.argv)
        self.environment: Mapping[str, str] = {**order.environment, **(command.environment or {})}
        self.folder: Path = order.folder or order.root
        self._process = process
        self._is_ready = False
        self._signalled = trio.Event()
        self._handles_signal = False
        self._scope = trio.CancelScope()
        self._json_rpc = JsonRpcEnd(process, command.lane) if command.lane.startswith("jsonrpc") else None
        plain = command.lane in {"bytes", "lines"}
        self._stdin: MessageReceiveChannel[JsonValue] | None = process.messages() if plain else None
        self._reports: Reports | None = None
        if command.ready == "notify":
            grace = _DEFAULT_GRACE if order.grace_period is None else order.grace_period
            self._reports = Reports(process, self._become_ready, _follow_nobody, grace)
        self._watchers: dict[bool, Callable[[bytes], None]] = {}
        if isinstance(command.ready, Line):
            search = LineSearch(command.ready.pattern, self._become_ready)
            self._watchers = {False: search.watcher(), True: search.watcher()}

    def __repr__(self) -> str:
        return f"<ScriptedProgram {self.command!r}>"

    # What the program does.

    def notify(self, text: str) -> None:
        r"""Say something by `sd_notify`, as in ``program.notify("READY=1\nSTATUS=up")``.

        Raises:
            RuntimeError: the command has not ``ready="notify"``, so that its program has nobody to tell.
            Exception: it is no notification; a real host ignores it.
        """
        if self._reports is None:
            raise RuntimeError("this program has no NOTIFY_SOCKET; spawn it by Command(…, ready='notify')")
        self._reports.hear(read_notification(text.encode()))

    def listen(self) -> None:
        """Take connections from now on: the `Tcp` port or `Http` URL of the command's readiness answers."""
        if isinstance(self.command.ready, Tcp | Http):
            self._become_ready()

    async def print(self, line: str, *, to_stderr: bool = False) -> None:
        """Write a line to stdout or stderr. With the lane ``"lines"`` one to stdout is a message, with ``"bytes"`` any.

        Raises:
            ValueError: it is no single line.
        """
        if "\n" in line:
            raise ValueError(f"{line!r} is more than one line")
        if self._watchers and not self._is_ready:
            self._watchers[to_stderr](f"{line}\n".encode())
        if self.command.lane == "bytes":
            await self.write(f"{line}\n".encode(), to_stderr=to_stderr)
        elif self.command.lane == "lines" and not to_stderr:
            await self._process.send(line)
        else:
            if to_stderr:
                self._process._controls._report(line)
            await trio.lowlevel.checkpoint()

    async def write(self, data: bytes, *, to_stderr: bool = False) -> None:
        """Write bytes to stdout or stderr, which are a message.

        Raises:
            RuntimeError: the command has not the lane ``"bytes"``.
        """
        if self.command.lane != "bytes":
            raise RuntimeError("only a program with lane='bytes' writes bytes; use print(), or send() for JSON-RPC")
        await self._process.send({"stderr" if to_stderr else "stdout": data})

    async def receive(self) -> JsonValue:
        """Wait for what comes on stdin: bytes (`None` at its end), a line as a str, or a JSON-RPC message as a dict.

        Raises:
            RuntimeError: the command has no lane, so stdin is the null device.
        """
        if self._stdin is not None:
            return await self._stdin.receive()
        return await self._json_rpc_end().receive()

    async def send(self, message: dict[str, JsonValue]) -> None:
        """Write a JSON-RPC message to stdout: an answer, a request, or a notification.

        Raises:
            RuntimeError: the command has no lane of JSON-RPC.
        """
        await self._json_rpc_end().send(message)

    async def wait_signal(self) -> int:
        """Wait for the command's stop signal, and return its number. From now on it does not end the program."""
        self._handles_signal = True
        await self._signalled.wait()
        return self.command.stop_signal

    def _json_rpc_end(self) -> JsonRpcEnd:
        if self._json_rpc is None:
            raise RuntimeError(
                f"a program with lane={self.command.lane!r} has no such messages; for JSON-RPC spawn it by "
                "Command(…, lane='jsonrpc'), for lines by Command(…, lane='lines') and use print()"
            )
        return self._json_rpc

    # What its shim does.

    def _become_ready(self) -> None:
        self._is_ready = True
        self._process.ready()

    def _stop(self, _: object) -> None:
        self._signalled.set()
        if not self._handles_signal:
            self._scope.cancel()

    async def _play(self, script: CommandScript) -> None:
        process, reports = self._process, self._reports
        process.on_stop(self._stop)
        if reports is None or process.heartbeat_timeout == math.inf:
            process.beat_while_running()
        code: object = None
        error: Exception | None = None
        async with trio.open_nursery() as nursery:
            if reports is not None:
                nursery.start_soon(reports.run)
            if self._json_rpc is not None:
                nursery.start_soon(self._json_rpc.run)
            if self.command.ready == "started":
                self._become_ready()
            with self._scope:
                try:
                    code = await script(self)
                except Exception as raised:
                    error = raised  # to be raised below, in no group
            nursery.cancel_scope.cancel()
        if reports is not None:
            reports.close()
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback has this frame
        if not (code is None or type(code) is int):
            raise TypeError(f"the script of {self.argv[0]!r} returned {code!r}; a program exits with an int, or None")
        self._say_end(self.command.stop_signal if self._scope.cancelled_caught else (code or 0) << 8)

    def _say_end(self, status: int) -> None:
        controls = self._process._controls
        end = judge(
            status,
            is_ready=self._is_ready,
            stopped_by=self.command.stop_signal if self._signalled.is_set() else None,
            error_number=None if self._reports is None else self._reports.error_number,
        )
        if end.word == "completed":
            self._process.complete()
        elif end.word == "stopped":
            controls.say_finally("stopped", encode_stopped(controls.sent))
        else:
            self._process.fail(end.error or "")


CommandScript: TypeAlias = Callable[[ScriptedProgram], Awaitable[int | None]]
"""What plays the program of a command: ``async def script(program)``, which returns the exit code."""


def playing(script: CommandScript, order: LaunchOrder, command: Command) -> MemoryEntry:
    """Make the entry that runs a script as a command."""
    return partial(_run, script, order, command)


async def _run(script: CommandScript, order: LaunchOrder, command: Command, process: ProcessContext) -> None:
    await ScriptedProgram(process, order, command)._play(script)


def _follow_nobody(_: int) -> None:
    """A script has no other process."""
