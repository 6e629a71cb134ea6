"""One simulation, as frozen values: the plan of each child, and the commands to the host with their times.

Times are seconds since the beginning, on a grid of binary fractions, so that sums of them are exact and "at the very
same instant" means something.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import attrs

PATIENCE: Final = 0.5
"""Seconds that a child may live on after it has closed its control lane (contract, states)."""

ABANDONMENT: Final = 1.5
"""Seconds after which a process that withstands its kill is abandoned (contract, rule 1)."""

CAUSE: Final = 1.0
"""Seconds that a caller waits to learn why its handler was cancelled, if nobody here has asked for that."""

FOREVER: Final = 10_000.0
"""By when everything is over, or something hangs. All that is done has this deadline."""


@attrs.frozen
class Act:
    """One thing that a child does."""

    what: str
    """`ready`, `beat` (in its page), `heartbeat` (a frame), `send`, `send nonsense`, `complete`, `fail`, `stopped`,
    `exiting`, `speak nonsense`, `close control`, `exit`, `die of a signal`, `vanish`; `take calls`, `close calls`,
    `answer nobody`, `answer nonsense`; and in a handler `answer`, `raise`, `refuse`, `say cancelled`, `end`, `item` (if
    there is credit), `push` (an item regardless).
    """
    value: int = 0
    """How many messages, which result, which code or signal, whose call, how many calls at a time."""

    def __repr__(self) -> str:
        return f"Act({self.what!r}, {self.value})" if self.value else f"Act({self.what!r})"


@attrs.frozen
class Moment:
    """Acts without a pause between them."""

    after: float
    """Seconds after the launch, or after the stop that they answer."""
    acts: tuple[Act, ...]


@attrs.frozen
class Handler:
    """What a child does about one call."""

    plan: tuple[Moment, ...] = (Moment(0.0, (Act("answer"),)),)
    """After it has got the call."""
    at_cancel: tuple[Moment, ...] | None = (Moment(0.0, (Act("say cancelled"),)),)
    """Replaces the rest of the plan once the call is cancelled; `None`: it goes on."""


@attrs.frozen
class Part:
    """The plan of a child."""

    launch_seconds: float = 0.0
    launch_fails: bool = False
    is_launched_regardless: bool = False
    """The launch cannot be called off: the process exists before its host has changed its mind."""
    plan: tuple[Moment, ...] = (Moment(0.0, (Act("ready"),)),)
    at_stop: tuple[Moment, ...] | None = (Moment(0.0, (Act("stopped"), Act("exit"))),)
    """Replaces the rest of the plan after a stop; `None`: it ignores the stop."""
    withstands_kill: float = 0.0
    """Seconds that it exists on after its kill."""
    has_pid: bool = False
    """Whether it looks like a process of the operating system."""
    calls: str = "ready"
    """When it takes calls: `ready` at once, `later` not before it says so, or `protocol 1` never."""
    concurrency: int | None = None
    """How many calls it says that it serves at a time, with `ready`."""
    call_room: int | None = None
    """It reads no calls, and its lane holds so many."""


@attrs.frozen(kw_only=True)
class Command:
    """Something asked of a worker's processes, in a task of its own."""

    worker: int
    at: float
    cancelled_at: float = math.inf
    """When the task is cancelled."""


@attrs.frozen(kw_only=True)
class Spawn(Command):
    """Spawn a process; it is called by this command's number from then on."""

    part: Part = Part()
    kind: str | None = None
    key: str | None = None
    user_id: str | None = None
    startup_timeout: float = 5.0
    heartbeat_timeout: float = math.inf
    run_seconds: float = math.inf
    replace_existing: bool = False
    grace_period: float | None = None
    replace_grace: float | None = None
    keep_key: bool = False
    successor_of: int | None = None
    """The process whose key may be kept for this one."""
    after_end_of: int | None = None
    """A process whose terminal event starts this command, instead of its time."""
    entry_exists: bool = True


@attrs.frozen(kw_only=True)
class Stop(Command):
    """Stop a process, and wait until it is gone."""

    target: int
    user_id: str | None = None
    reason: str | None = None
    grace: float | None = None
    """0 is a kill."""
    keep_key: bool = False


@attrs.frozen(kw_only=True)
class ReleaseKey(Command):
    """Give up the key that may be kept of a process."""

    target: int
    user_id: str | None = None


@attrs.frozen(kw_only=True)
class Send(Command):
    """Send the number of this command to a process."""

    target: int
    user_id: str | None = None


@attrs.frozen(kw_only=True)
class List(Command):
    """List processes."""

    user_id: str | None = None
    kind: str | None = None
    key: str | None = None
    state: str | None = None


@attrs.frozen(kw_only=True)
class Get(Command):
    """Look a process up."""

    target: int


@attrs.frozen(kw_only=True)
class Wait(Command):
    """Wait for the end of a process, with its handle, if its spawn has returned one."""

    target: int


@attrs.frozen(kw_only=True)
class Call(Command):
    """Call a process, with its handle, or as a connection would if its spawn has not returned one yet."""

    target: int
    timeout: float = math.inf
    kills: bool = False
    """With `overrun="kill"`."""
    is_cancelled_by_hand: bool = False
    """It is cancelled by another task, of which nobody knows beforehand; else by the deadline of an outer scope."""
    handler: Handler = Handler()

    @property
    def deadline(self) -> float:
        """When its time is over, as far as that is known at its beginning."""
        return min(self.at + self.timeout, math.inf if self.is_cancelled_by_hand else self.cancelled_at, FOREVER)


@attrs.frozen(kw_only=True)
class Stream(Call):
    """Read a stream of a process, as long as it has items and somebody wants them."""

    window: int = 16
    reads: tuple[float, ...] = ()
    """Seconds before each item that is wanted; then the block is left."""


@attrs.frozen(kw_only=True)
class WaitIdle(Command):
    """Wait until a process has ended all its calls, with its handle, if its spawn has returned one."""

    target: int


AnyCommand: TypeAlias = Spawn | Stop | ReleaseKey | Send | List | Get | Wait | Call | WaitIdle


@attrs.frozen
class Block:
    """How a worker's or the host's block is left."""

    left_at: float
    how: str = "return"
    """`return`, `error` or `cancel`."""


@attrs.frozen
class WorkerPlan:
    """One worker."""

    block: Block
    user_id: str | None = None
    listens: bool = True
    """Whether somebody subscribes to its messages."""


@attrs.frozen
class Scenario:
    """All of it."""

    workers: tuple[WorkerPlan, ...]
    commands: tuple[AnyCommand, ...]
    host: Block
    kills: tuple[float, ...] = ()
    """When `host.kill()` is called."""
    grace_period: float = 1.0
    max_processes: int = 16
    inbox_messages: int = 3
    cancel_grace: float = 1.0
    is_narrow: bool = False
    """Only one call, and one message, may wait for a process that does not read."""

    def spawn(self, number: int) -> Spawn:
        """Find the command that a process is called after."""
        command = self.commands[number]
        assert isinstance(command, Spawn), f"command {number} is no spawn"
        return command

    def call(self, number: int) -> Call:
        """Find a call by the number of its command."""
        command = self.commands[number]
        assert isinstance(command, Call), f"command {number} is no call"
        return command

    def stream(self, number: int) -> Stream:
        """Find a stream by the number of its command."""
        command = self.commands[number]
        assert isinstance(command, Stream), f"command {number} is no stream"
        return command

    def describe(self) -> str:
        """Write it down for people, a command a line."""
        graces = f"grace {self.grace_period}, of calls {self.cancel_grace}"
        lines = [f"{graces}, {self.max_processes} processes, host {self.host}, kills {self.kills}"]
        lines += [f"worker {number}: {plan}" for number, plan in enumerate(self.workers)]
        lines += [f"{number:3d}: {command}" for number, command in enumerate(self.commands)]
        return "\n".join(lines)


Place: TypeAlias = tuple[str, str, str]


def user_of(plan: WorkerPlan, spawn: Spawn) -> str:
    """Return the owner of the process; empty if there is none."""
    return plan.user_id if plan.user_id is not None else (spawn.user_id or "").strip()


def kind_of(spawn: Spawn, number: int) -> str:
    """Tell its kind: that given, trimmed, or its entry, which is its own."""
    return (spawn.kind or "").strip() or entry_of(number)


def place_of(plan: WorkerPlan, spawn: Spawn, number: int) -> Place | None:
    """Tell of which key it will be the one process; `None` without a key."""
    key = (spawn.key or "").strip()
    return (user_of(plan, spawn), kind_of(spawn, number), key) if key else None


def method_of(number: int) -> str:
    """Name the method of a call: each has one of its own."""
    return f"method-{number}"


def entry_of(number: int) -> str:
    """Name the entry of a spawn: each has one of its own."""
    return f"entry-{number}"
