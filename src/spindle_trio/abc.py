"""The interface between the host and the operating system: launchers, and the processes that they start.

A launcher author implements `Launcher`, `LaunchedProcess` and, unless the socket lanes will do, `FrameLane`, and
runs `spindle_trio.testing.check_launcher` over the result. A launcher starts, kills and reaps a
process. It knows nothing of the lifecycle or of anything above that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import attrs

from spindle_trio._errors import EntryError, SandboxError
from spindle_trio._model import Containment, Limits, ResolvedEntry
from spindle_trio._model._exit_status import ExitStatus
from spindle_trio._model._field_docs import show_fields

if TYPE_CHECKING:
    from spindle_trio._model._command import Command
    from spindle_trio._model._resource_limits import ResourceLimits
    from spindle_trio._model._sandbox import Sandbox, SandboxPart
    from spindle_trio._model._sandbox_rules import SandboxRules
    from spindle_trio._model._usage import Usage

__all__ = [
    "ABANDON_SECONDS",
    "DUMP_SECONDS",
    "ArrivalListener",
    "ExitStatus",
    "FrameLane",
    "LaunchOrder",
    "LaunchedProcess",
    "Launcher",
    "ResolvedEntry",
    "SandboxRules",
]


def __getattr__(name: str) -> object:
    """Load what most programs never use, when it is first asked for."""
    if name != "SandboxRules":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spindle_trio._model._sandbox_rules import SandboxRules

    return SandboxRules


ABANDON_SECONDS: Final = 1.5
"""How long after its kill a process may still exist before it is abandoned (contract, rule 1)."""

DUMP_SECONDS: Final = 0.3
"""How long a process that is to be killed by a watchdog may take to leave the stacks of its threads."""


@show_fields
@attrs.frozen
class LaunchOrder:
    """What a launcher is told about the process that it is to start."""

    process_id: str
    """The host's id for it, for log records."""
    entry: ResolvedEntry
    """What `Launcher.resolve` or `Launcher.resolve_command` returned."""
    root: Path
    """The worker's root: the working directory of the process, unless `folder` names another one."""
    environment: Mapping[str, str]
    """The whole environment of the process."""
    limits: Limits
    """The host's limits; lanes need `frame_bytes` and `frame_seconds`."""
    log_attributes: Callable[[], Mapping[str, object]] = attrs.field(default=dict, kw_only=True)
    """Makes the `extra` of log records about the process: its id, entry, kind, key, user and worker."""
    start_soon: Callable[[Callable[[], Awaitable[object]]], None] | None = None
    """Starts a task in a nursery that outlives the launch block; `None` where there is none.

    A launcher may have tasks there instead of in a nursery of its own for each process. When a launch block has been
    left, its task must have ended, or be about to without waiting.
    """
    folder: Path | None = None
    """The working directory instead of the root: what `Launcher.resolve_folder` returned."""
    arguments: Sequence[str] = ()
    """The entry's arguments, after its name."""
    resource_limits: ResourceLimits | None = None
    """What the process and all that it starts may use; `None` for no limit. `run_seconds` is the host's to hold.

    Only limits that `Launcher.limit_means` names are asked for.
    """
    command: Command | None = None
    """What to run instead of an entry: what `Launcher.resolve_command` has accepted. Its folder is `folder`, above."""
    grace_period: float | None = None
    """Seconds that it has to end once it is asked to stop, if `command` is given."""
    sandbox: SandboxRules | None = None
    """What the process may reach: what `Launcher.resolve_sandbox` returned; `None` for no sandbox."""


class ArrivalListener(Protocol):
    """Is told that something has arrived on a lane."""

    def arrived(self, lane: FrameLane) -> None:
        """Take note, inside the sender's call: must neither receive here nor wait."""


class FrameLane(ABC):
    """One of the lanes between host and process. Carries the bodies of frames, in order each way.

    The host's end and the end of an `async` child are lanes alike. One task receives and one task sends at a time;
    the `nowait` methods may be called by any task at any moment, also while another waits in `receive`.
    """

    __slots__ = ()

    def tell_arrival(self, listener: ArrivalListener) -> bool:
        """Have a listener told, once, when there is something to receive or the peer has closed the lane.

        So no task has to wait in `receive` for what most processes never send. The listener is called inside the
        sender's call, or at once if there is something already.

        Returns:
            Whether it will be told. A lane that learns of frames only by waiting returns `False`, the default.
        """
        return False

    @abstractmethod
    async def receive(self, max_frames: int) -> list[bytes]:
        """Wait for frames and return one to `max_frames` bodies: at most one read's worth, then a checkpoint.

        If it is cancelled, nothing is lost. Waiting counts against the frame deadline (`Limits.frame_seconds`) while a
        frame is incomplete; time in which no task is in `receive` does not.

        Raises:
            trio.EndOfChannel: the peer has closed the lane or is gone, and all it sent has been received.
            trio.ClosedResourceError: this end was closed.
            PeerProtocolError: a frame is too long, or was not complete in time. Every later call raises it again.
        """

    @abstractmethod
    def receive_nowait(self, max_frames: int) -> list[bytes]:
        """Return what has arrived already, one to `max_frames` bodies, after as few reads as make one frame whole.

        Raises:
            trio.WouldBlock: no whole frame has arrived.
            trio.EndOfChannel: as in `receive`.
            trio.ClosedResourceError: as in `receive`.
            PeerProtocolError: a frame is too long.
        """

    @abstractmethod
    def send_nowait(self, body: bytes) -> bool:
        """Begin to send one frame, and say whether all of it has left for the peer's system.

        Call it only while nothing is pending. After `False` the lane holds the rest of the frame, which is
        pending until `send_pending` has returned.

        Raises:
            trio.BrokenResourceError: the peer has closed the lane or is gone.
            trio.ClosedResourceError: this end was closed.
        """

    def send_many_nowait(self, bodies: Sequence[bytes]) -> int:
        """Begin to send these frames, and return how many of them have left for the peer's system.

        If that is not all of them, the next one is pending, as after `send_nowait`, and those behind it were not begun.
        Called only while nothing is pending. A lane that can join frames into one write overrides this.

        Raises:
            trio.BrokenResourceError: as in `send_nowait`.
            trio.ClosedResourceError: as in `send_nowait`.
        """
        for left, body in enumerate(bodies):
            if not self.send_nowait(body):
                return left
        return len(bodies)

    @abstractmethod
    async def send_pending(self, bodies: Sequence[bytes] = ()) -> None:
        """Send what is pending and then these frames, in as few writes as possible; return when all have left.

        If it is cancelled, each of these frames has been sent, will be by the next `send_pending`, or, if none of it
        had been written, is lost: it is cancelled only when the lane is given up.

        Raises:
            trio.BrokenResourceError: the peer has closed the lane or is gone.
            trio.ClosedResourceError: this end was closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Close this end. A task that waits in `receive` or `send_pending` here gets `trio.ClosedResourceError`."""


class LaunchedProcess(ABC):
    """A running process: its lanes, its last heartbeat, and the means to kill and reap it.

    Attributes:
        pid: The operating system's number for it, if it has one.
        control: Small frames that never wait behind messages.
        messages: Payloads, with back-pressure.
        control_patience: Seconds that a process may live on after it has closed its control lane (contract, states).
    """

    __slots__ = ()

    pid: int | None = None
    control: FrameLane
    messages: FrameLane
    control_patience: ClassVar[float] = 0.5

    @property
    def calls(self) -> FrameLane | None:
        """Calls, their answers and the items of streams; it may be made when it is first asked for.

        `None`, the default, is for a launcher of protocol 1: its processes take no calls.
        """
        return None

    @property
    def is_in_this_run(self) -> bool:
        """Whether it is a task of this very Trio run, as in `MemoryLauncher`.

        Such a process stalls whenever this program does. One in another program, here or on another machine, runs
        on: its heartbeats are polled, and time in which this program was stalled does not count against it. By default,
        a process without a `pid` counts as one of this run; override this for a process elsewhere that has no pid here.
        """
        return self.pid is None

    @abstractmethod
    def last_heartbeat(self) -> float:
        """Tell when the process last beat, on Trio's clock in seconds; `-math.inf` before the first."""

    @abstractmethod
    def request_stop(self) -> None:
        """Set a flag that a stop was requested, which a blocking entry reads without a system call.

        The request itself travels as a frame on the control lane. Never blocks, may be called twice.
        """

    @abstractmethod
    def kill(self) -> None:
        """Kill the process and its tree at once. Never blocks; does nothing after the end."""

    def request_dump(self) -> bool:
        """Ask a process that is to be killed to dump the stacks of all its threads and end.

        The processes that it started must be stopped, and not end before it. Never blocks. The host kills it if it
        has not ended after `DUMP_SECONDS`.

        Returns:
            Whether a dump may come. After `False`, the default, the host kills the process at once.
        """
        return False

    @abstractmethod
    def has_exited(self) -> bool:
        """Look, without waiting, whether `wait` would return at once."""

    @abstractmethod
    async def wait(self) -> ExitStatus:
        """Wait until the process has ended, reap it, and return how it ended.

        When it returns, all that the process wrote to stdout and stderr has been taken in. If it is cancelled, it can
        be called again; after the end it returns the same status each time.
        """

    def stderr_tail(self) -> str:
        """Return the last of what the process wrote to stderr, as text; empty where a launcher captures none."""
        return ""

    def stacks(self) -> str | None:
        """Return the stacks that an ended process has dumped; `None` if none."""
        return None

    def remark(self) -> str | None:
        """Explain the end of a process that missed a deadline, or why there are no stacks.

        For example ``it was stopped by a signal``.
        """
        return None

    def output_dropped(self) -> int:
        """Count the bytes of stdout and stderr that were drained but not kept."""
        return 0

    def limit_hit(self, announced: ExitStatus | None = None) -> str | None:
        """Say which resource limit it has reached, with the figure and the bound; asked once `wait` has returned.

        As in ``memory: 512 MiB used of 512 MiB``. One that is over a limit on memory or processor time must be killed
        by the launcher, if the system has not done that. It may also have ended by itself, as by the error that a limit
        has caused. `None`, the default: no limit was reached, or nobody can tell.

        Args:
            announced: the end that it has announced, if it has, before its tree was killed.
        """
        return None

    def denied(self, said: str) -> str | None:
        """Find an access in what it has said that its sandbox has denied; asked once `wait` has returned.

        As in ``'/etc/shadow': its sandbox allows nothing there``. `None`, the default: it has no sandbox, or has named
        no such access.

        Args:
            said: the errors that it has reported, and the last lines of its stderr.
        """
        return None

    def usage(self) -> Usage | None:
        """Look, without waiting, at what it uses now together with all that it has started; `None` if unknown."""
        return None

    def peaks(self) -> Usage | None:
        """Return the most that it has used, with all that it had started; asked once `wait` has returned.

        Of the processor time, all. `None`, the default, is for unknown.
        """
        return None


class Launcher(ABC):
    """Starts processes. One launcher serves one host."""

    @property
    def containment(self) -> Containment | None:
        """The level of containment of its processes, once it has been started.

        `None`, the default, is for a launcher that starts no operating-system processes, or does not know.
        """
        return None

    @property
    def containment_problems(self) -> Mapping[Containment, str]:
        """Why each stronger level does not work here, and what the one in use lacks, once it has been started."""
        return {}

    @property
    def limit_means(self) -> Mapping[str, str]:
        """By which means it holds each resource limit: a field of `ResourceLimits` → the means, as in ``"cgroup"``.

        A spawn with a limit that is not among them is refused. Asked once it has been started; it may find that out
        when it is first asked. Empty, the default: it holds none.
        """
        return {}

    @property
    def limit_problems(self) -> Mapping[str, str]:
        """Why a limit cannot be held, or only by a weaker means: a field of `ResourceLimits` → the reason."""
        return {}

    @property
    def sandbox_means(self) -> Mapping[SandboxPart, str]:
        """By which means it holds each part of a sandbox: as in ``{SandboxPart.FILES: "Landlock 7"}``.

        A spawn whose sandbox needs a part that is not among them is refused. Asked once it has been started; it may
        find that out when it is first asked. Empty, the default: it has no sandboxes.
        """
        return {}

    @property
    def sandbox_problems(self) -> Mapping[SandboxPart, str]:
        """Why a part of a sandbox cannot be had."""
        return {}

    async def start(self) -> None:
        """Make ready to launch at once; called when the host opens, before anything else.

        So a launcher's own start never counts against a startup deadline. It may leave a nursery open, which `aclose`
        closes: both are called by one task, with no cancel scope opened in between that is still open.

        Raises:
            Exception: the host cannot open; says why and what to do.
        """

    async def aclose(self) -> None:
        """Release what `start` took; called when the host has ended all processes.

        It must be bounded in time and shield itself, since the host may be closing because it was cancelled.
        """

    @abstractmethod
    def resolve(self, entry: str, root: Path) -> ResolvedEntry:
        """Accept or refuse an entry. Starts nothing; called before the key is looked at.

        Args:
            entry: as the caller gave it, trimmed.
            root: the worker's root, an absolute path.

        Raises:
            EntryError: says what is wrong with the entry and what would be right.
        """

    def resolve_command(self, command: Command, root: Path, environment: Mapping[str, str]) -> ResolvedEntry:
        """Accept or refuse a command. Called like `resolve`, in its place.

        Args:
            command: as the caller gave it; the host allows it.
            root: the worker's root, an absolute path.
            environment: that of the program: its `PATH` says where programs are.

        Raises:
            EntryError: says what is wrong with the program; by default that this launcher runs none.
        """
        raise EntryError(
            f"{type(self).__name__} runs no commands, and {command.argv[0]!r} is one: use DefaultLauncher, or in tests "
            "MemoryLauncher(commands={…})"
        )

    def resolve_folder(self, folder: str, root: Path) -> Path:
        """Accept or refuse the folder that a process is to run in. Called like `resolve`.

        Args:
            folder: as the caller gave it.
            root: the worker's root, an absolute path.

        Raises:
            EntryError: says what is wrong with the folder; by default that this launcher knows no other than the root.
        """
        raise EntryError(f"{type(self).__name__} runs each process in its worker's root: spawn without {folder=}")

    def resolve_sandbox(self, sandbox: Sandbox, entry: ResolvedEntry, root: Path) -> SandboxRules:
        """Accept or refuse a sandbox, and find its paths. Called like `resolve`, and after it.

        Args:
            sandbox: as the caller or the host gave it. All parts that it needs are in `sandbox_means`.
            entry: what `resolve` returned.
            root: the worker's root, an absolute path.

        Raises:
            SandboxError: says what is wrong with a path; by default that this launcher has no sandboxes.
        """
        raise SandboxError(f"{type(self).__name__} has no sandboxes: spawn without one, or use DefaultLauncher")

    @abstractmethod
    def launch(self, order: LaunchOrder) -> AbstractAsyncContextManager[LaunchedProcess]:
        """Run a process for as long as the block lasts.

        The call itself may begin what needs no waiting, such as handing the order to a warm process. The host enters
        every block that it has asked for.

        Leaving the block, in whatever way, kills the process if it is alive, and always reaps it. If entering it is
        cancelled or fails, no process is left. A process that survives its kill for `ABANDON_SECONDS` is reaped in
        the background.

        Raises:
            OSError: the operating system refused. Any other exception counts as a failed launch, too.
        """
