"""The entry of every command: starts the program, and speaks for it until it has ended.

Theory of operation
-------------------

The program is a child of this process. Its stdin is the null device, and it has this process's stdout and stderr, which
the host reads, unless its lane needs pipes or its readiness shows in what it writes. Then one task for each pipe reads.

The shim says `ready` once what its readiness names has happened; the host has the deadline. It beats by itself, or
passes on the program's heartbeats if it was told to send some. A stop is passed on as a signal; that the grace period
is over, the host sees. When the program has ended, and what it has written has been read, the shim says what that
means. The host then ends the whole tree.

Neither outlives the other: the kernel kills the program when the shim ends, and the host ends whatever is left.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import trio

from spindle_trio.child._exit_frames import encode_stopped
from spindle_trio.child._process import report
from spindle_trio.program._ending import judge
from spindle_trio.program._output import ProgramOutput, relay
from spindle_trio.program._running import RunningProgram, prepare_shim
from spindle_trio.program._spec import Spec, SpecError, read_spec
from spindle_trio.program._start import StartError, Streams, start_program

if TYPE_CHECKING:
    from spindle_trio.child import ProcessContext
    from spindle_trio.child._handlers import StopNotice
    from spindle_trio.program._lane import Lane
    from spindle_trio.program._notify import NotifySocket
    from spindle_trio.program._readiness import HttpTarget, TcpTarget
    from spindle_trio.program._reports import Reports

_NOT_INHERITED: Final = (
    "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip
"""What the manager of the host's own program has told that: it is not for the programs that it starts."""


async def run(process: ProcessContext) -> None:
    """Run the command that the only argument describes."""
    try:
        (text,) = sys.argv[1:]
        spec = read_spec(text)
    except (SpecError, ValueError) as error:
        process.fail(f"the argument of a shim describes no command: {error}")
        return
    with ExitStack() as resources:
        await _Shim(process, spec, resources).run()


class _Shim:
    """One command."""

    def __init__(self, process: ProcessContext, spec: Spec, resources: ExitStack) -> None:
        self._process = process
        self._spec = spec
        self._resources = resources
        self._program: RunningProgram | None = None
        self._stopped = False
        self._is_ready = False
        # What few commands need.
        self._outputs: list[tuple[ProgramOutput, int]] = []  # with the descriptor that each is passed on to
        self._lane: Lane | None = None
        self._lane_outputs: dict[str, ProgramOutput] = {}
        self._socket: NotifySocket | None = None
        self._reports: Reports | None = None
        self._target: HttpTarget | TcpTarget | None = None
        process.on_stop(self._stop)

    async def run(self) -> None:
        """Run the program to its end, and say how it ended."""
        prepare_shim()
        with trio.open_signal_receiver(signal.SIGCHLD) as ended_children:
            try:
                program = self._start()
            except (StartError, OSError, ValueError) as error:
                self._process.fail(f"{self._spec.argv[0]!r} could not be started: {error}")
                return
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(program.reap, ended_children)
                    self._attend(program, nursery)
                    async with trio.open_nursery() as readers:
                        outputs = [output for output, _ in self._outputs]
                        for output, target in self._outputs:
                            readers.start_soon(relay, output, target)
                        if self._lane is not None:
                            outputs += self._lane_outputs.values()
                            readers.start_soon(self._lane.read)
                        await program.ended.wait()
                        for output in outputs:
                            output.end()
                    nursery.cancel_scope.cancel()
            finally:
                program.kill()
        self._say_end(program)

    def _attend(self, program: RunningProgram, nursery: trio.Nursery) -> None:
        """Begin with what goes on beside the program, and wait for its readiness."""
        kind = self._spec.ready.kind
        if self._stopped:
            program.send_signal(self._spec.stop_signal)
        if kind != "notify" or self._process.heartbeat_timeout == math.inf:
            self._process.beat_while_running()
        if self._lane is not None:
            nursery.start_soon(self._lane.write)
        if self._socket is not None and self._reports is not None:
            nursery.start_soon(self._socket.run)
            nursery.start_soon(self._reports.run)
        if self._target is not None:
            nursery.start_soon(self._ask, self._target)
        if kind == "started":
            self._become_ready()

    def _say_end(self, program: RunningProgram) -> None:
        number = None
        if self._socket is not None and self._reports is not None:
            from spindle_trio.program._notify import MOST_WAITING

            self._socket.take_in(MOST_WAITING)
            self._reports.close()
            number = self._reports.error_number
        stopped_by = self._spec.stop_signal if self._stopped else None
        end = judge(program.status, is_ready=self._is_ready, stopped_by=stopped_by, error_number=number)
        if end.word == "completed":
            self._process.complete()
        elif end.word == "stopped":
            controls = self._process._controls
            controls.say_finally("stopped", encode_stopped(controls.sent))
        else:
            self._process.fail(end.error or "")
            sys.exit(end.code)

    # The start.

    def _start(self) -> RunningProgram:
        """Make what the program needs, and start it."""
        spec = self._spec
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        environment |= spec.environment
        self._prepare_readiness(environment)
        confine = None
        if spec.sandbox is not None:
            from spindle_trio.program._confinement import enter_sandbox

            confine = enter_sandbox(spec.sandbox)
        theirs: list[int] = []
        try:
            program = RunningProgram(start_program(spec, environment, self._make_streams(theirs), confine))
        finally:
            for fd in theirs:
                os.close(fd)
        self._program = program
        return program

    def _prepare_readiness(self, environment: dict[str, str]) -> None:
        kind, _, host, port, url = self._spec.ready
        if kind == "notify":
            from spindle_trio.program._notify import NotifySocket
            from spindle_trio.program._reports import Reports

            self._reports = Reports(self._process, self._become_ready, self._follow, self._spec.grace_period)
            assert self._spec.notify_folder is not None, "a command that notifies names one"
            self._socket = NotifySocket(self._spec.notify_folder, self._reports.hear, report)
            self._resources.callback(self._socket.close)
            environment["NOTIFY_SOCKET"] = self._socket.path
            timeout = self._process.heartbeat_timeout
            if timeout != math.inf:
                environment["WATCHDOG_USEC"] = str(max(1, int(timeout * 1_000_000)))
        elif kind in ("tcp", "http"):
            from spindle_trio.program._readiness import HttpTarget, TcpTarget, is_taken

            self._target = HttpTarget(url) if kind == "http" else TcpTarget(host, port)
            if is_taken(self._target):
                raise StartError(
                    f"something else accepts connections on {self._target.host} port {self._target.port} already, so "
                    "they would not show that this program is ready"
                )

    def _make_streams(self, theirs: list[int]) -> Streams:
        """Make the pipes that this command needs; the program's ends go to `theirs`, to be closed here."""
        stdin, stdout, stderr = 0, 1, 2
        if self._spec.lane != "none":
            stdin, ours = os.pipe()
            theirs.append(stdin)
            self._resources.callback(os.close, ours)
            os.set_blocking(ours, False)
            self._lane_outputs["stdout"], stdout = self._pipe(theirs)
            if self._spec.lane == "bytes":
                self._lane_outputs["stderr"], stderr = self._pipe(theirs)
            self._lane = self._make_lane(ours)
        if self._spec.ready.kind == "line":
            if "stderr" not in self._lane_outputs:
                error_output, stderr = self._pipe(theirs)
                self._outputs.append((error_output, 2))
            if not self._lane_outputs:
                output, stdout = self._pipe(theirs)
                self._outputs.append((output, 1))
            for _, fd in self._outputs:
                os.set_blocking(fd, False)
            self._search(self._spec.ready.pattern)
        return Streams(stdin, stdout, stderr)

    def _pipe(self, theirs: list[int]) -> tuple[ProgramOutput, int]:
        here, there = os.pipe()
        theirs.append(there)
        output = ProgramOutput(here)
        self._resources.callback(output.close)
        return output, there

    def _make_lane(self, stdin: int) -> Lane:
        if self._spec.lane == "bytes":
            from spindle_trio.program._byte_lane import ByteLane

            return ByteLane(self._process, stdin, self._lane_outputs)
        if self._spec.lane == "lines":
            from spindle_trio.program._line_lane import LineLane

            return LineLane(self._process, stdin, self._lane_outputs["stdout"])
        from spindle_trio.program._json_rpc_lane import JsonRpcLane

        return JsonRpcLane(self._process, stdin, self._lane_outputs["stdout"], self._spec.lane)

    def _search(self, pattern: str) -> None:
        from spindle_trio.program._readiness import LineSearch

        search = LineSearch(pattern, self._become_ready)
        for output in self._watched():
            output.watch = search.watcher()

    def _watched(self) -> list[ProgramOutput]:
        return [*(output for output, _ in self._outputs), *self._lane_outputs.values()]

    # What happens while it runs.

    async def _ask(self, target: HttpTarget | TcpTarget) -> None:
        from spindle_trio.program._readiness import wait_until_it_answers

        await wait_until_it_answers(target)
        self._become_ready()

    def _become_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            for output in self._watched():
                output.watch = None
            self._process.ready()

    def _follow(self, pid: int) -> None:
        if self._program is not None:
            self._program.follow(pid)

    def _stop(self, _: StopNotice) -> None:
        self._stopped = True
        if self._program is not None:
            self._program.send_signal(self._spec.stop_signal)
