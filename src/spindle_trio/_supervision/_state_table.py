"""The table of a process's life: each input in each phase, and what follows. Sans-IO.

`_lifecycle` explains the phases, and what is not in the table.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

from spindle_trio._model import NO_HEARTBEAT, ExitReason, ProcessState


class Phase(enum.Enum):
    """Where a process is, as the table sees it."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDING = "ending"
    ENDED = "ended"


class Input(enum.Enum):
    """What a process, its host or a clock can say."""

    READY = "ready"
    COMPLETE = "complete"
    FAIL = "fail"
    REPORTED_STOPPED = "says stopped"
    EXIT = "exit"
    BROKEN = "breaks the protocol"
    CONTROL_CLOSED = "closes its control lane and lives on"
    LAUNCH_FAILED = "launch fails"
    STARTUP_DEADLINE = "startup deadline"
    HEARTBEAT_DEADLINE = "heartbeat deadline"
    RUN_DEADLINE = "runs for too long"
    CALL_OVERRUN = "cancelled call goes on"
    GRACE_DEADLINE = "grace period over"
    ABANDON_DEADLINE = "outlives its kill"
    STOP = "stop"
    HOST_STOP = "replace or unload"
    CALLER_GONE = "caller of spawn cancelled"
    KILL = "kill"


class Action(enum.Enum):
    """What the supervisor has to do now."""

    NOTHING = "nothing"
    ASK = "ask the process to stop"
    AWAIT_EXIT = "let it exit within the grace period"
    DUMP = "have it dump its stacks, or kill it"
    KILL = "kill it"
    ABANDON = "stop waiting for it"


@attrs.frozen
class End:
    """How a process ends, once that is settled."""

    state: ProcessState
    exit_reason: ExitReason


COMPLETED: Final = End(ProcessState.COMPLETED, ExitReason.COMPLETED)
FAILED: Final = End(ProcessState.FAILED, ExitReason.FAILED)
STOPPED: Final = End(ProcessState.STOPPED, ExitReason.STOPPED)
TIMED_OUT: Final = End(ProcessState.TIMED_OUT, ExitReason.TIMED_OUT)


@attrs.frozen
class Rule:
    """What follows an input in a phase."""

    phase: Phase
    """The phase after it."""
    action: Action = Action.NOTHING
    """What the supervisor does."""
    end: End | None = None
    """The end that is settled by it; `None` leaves that open, or as it was settled before."""


TABLE: Final[Mapping[tuple[Phase, Input], Rule]] = {
    (Phase.STARTING, Input.READY): Rule(Phase.RUNNING),
    (Phase.STARTING, Input.COMPLETE): Rule(Phase.ENDING, Action.AWAIT_EXIT, COMPLETED),
    (Phase.STARTING, Input.FAIL): Rule(Phase.ENDING, Action.AWAIT_EXIT, FAILED),
    (Phase.STARTING, Input.REPORTED_STOPPED): Rule(Phase.ENDING, Action.KILL, FAILED),
    (Phase.STARTING, Input.EXIT): Rule(Phase.ENDING, Action.NOTHING, FAILED),
    (Phase.STARTING, Input.BROKEN): Rule(Phase.ENDING, Action.KILL, FAILED),
    (Phase.STARTING, Input.CONTROL_CLOSED): Rule(Phase.ENDING, Action.KILL, FAILED),
    (Phase.STARTING, Input.LAUNCH_FAILED): Rule(Phase.ENDING, Action.NOTHING, FAILED),
    (Phase.STARTING, Input.STARTUP_DEADLINE): Rule(Phase.ENDING, Action.DUMP, TIMED_OUT),
    (Phase.STARTING, Input.STOP): Rule(Phase.STOPPING, Action.ASK),
    (Phase.STARTING, Input.HOST_STOP): Rule(Phase.STOPPING, Action.ASK),
    (Phase.STARTING, Input.CALLER_GONE): Rule(Phase.ENDING, Action.KILL, STOPPED),
    #
    (Phase.RUNNING, Input.COMPLETE): Rule(Phase.ENDING, Action.AWAIT_EXIT, COMPLETED),
    (Phase.RUNNING, Input.FAIL): Rule(Phase.ENDING, Action.AWAIT_EXIT, FAILED),
    (Phase.RUNNING, Input.REPORTED_STOPPED): Rule(Phase.ENDING, Action.KILL, FAILED),
    (Phase.RUNNING, Input.EXIT): Rule(Phase.ENDING, Action.NOTHING, FAILED),
    (Phase.RUNNING, Input.BROKEN): Rule(Phase.ENDING, Action.KILL, FAILED),
    (Phase.RUNNING, Input.CONTROL_CLOSED): Rule(Phase.ENDING, Action.KILL, FAILED),
    (Phase.RUNNING, Input.HEARTBEAT_DEADLINE): Rule(Phase.ENDING, Action.DUMP, TIMED_OUT),
    (Phase.RUNNING, Input.RUN_DEADLINE): Rule(Phase.ENDING, Action.DUMP, TIMED_OUT),
    (Phase.RUNNING, Input.CALL_OVERRUN): Rule(Phase.ENDING, Action.DUMP, TIMED_OUT),
    (Phase.RUNNING, Input.STOP): Rule(Phase.STOPPING, Action.ASK),
    (Phase.RUNNING, Input.HOST_STOP): Rule(Phase.STOPPING, Action.ASK),
    # The caller was cancelled in the very moment in which the process became ready: nobody holds its handle.
    (Phase.RUNNING, Input.CALLER_GONE): Rule(Phase.ENDING, Action.KILL, STOPPED),
    #
    (Phase.STOPPING, Input.COMPLETE): Rule(Phase.ENDING, Action.AWAIT_EXIT, COMPLETED),
    (Phase.STOPPING, Input.FAIL): Rule(Phase.ENDING, Action.AWAIT_EXIT, FAILED),
    (Phase.STOPPING, Input.REPORTED_STOPPED): Rule(Phase.ENDING, Action.AWAIT_EXIT, STOPPED),
    (Phase.STOPPING, Input.EXIT): Rule(Phase.ENDING, Action.NOTHING, STOPPED),
    (Phase.STOPPING, Input.BROKEN): Rule(Phase.ENDING, Action.KILL, STOPPED),
    (Phase.STOPPING, Input.CONTROL_CLOSED): Rule(Phase.ENDING, Action.KILL, STOPPED),
    (Phase.STOPPING, Input.LAUNCH_FAILED): Rule(Phase.ENDING, Action.NOTHING, STOPPED),
    (Phase.STOPPING, Input.CALL_OVERRUN): Rule(Phase.ENDING, Action.DUMP, STOPPED),
    (Phase.STOPPING, Input.GRACE_DEADLINE): Rule(Phase.ENDING, Action.KILL, STOPPED),
    (Phase.STOPPING, Input.CALLER_GONE): Rule(Phase.ENDING, Action.KILL, STOPPED),
    (Phase.STOPPING, Input.KILL): Rule(Phase.ENDING, Action.KILL, STOPPED),
    #
    (Phase.ENDING, Input.GRACE_DEADLINE): Rule(Phase.ENDING, Action.KILL),
    (Phase.ENDING, Input.KILL): Rule(Phase.ENDING, Action.KILL),
    (Phase.ENDING, Input.CALLER_GONE): Rule(Phase.ENDING, Action.KILL),
    (Phase.ENDING, Input.BROKEN): Rule(Phase.ENDING, Action.KILL),
    (Phase.ENDING, Input.ABANDON_DEADLINE): Rule(Phase.ENDING, Action.ABANDON),
}
"""Every rule. `ENDED` has none: whatever comes after the end is ignored."""

OWN_WORDS: Final[Mapping[Input, str]] = {
    Input.REPORTED_STOPPED: "broke the protocol: it said stopped without being asked to",
    Input.CONTROL_CLOSED: "closed its control lane and lived on",
    Input.STARTUP_DEADLINE: "not ready within {life.startup_timeout:g} s",
    Input.HEARTBEAT_DEADLINE: f"{NO_HEARTBEAT} {{life.heartbeat_timeout:g}} s",
    Input.RUN_DEADLINE: "ran for longer than run_seconds={life.run_seconds:g}",
    Input.GRACE_DEADLINE: "did not end within {life.grace_period:g} s of the stop, and was killed",
    Input.CALLER_GONE: "the caller of spawn was cancelled",
    Input.KILL: "killed without a grace period",
}
"""The error of an end whose reason the table alone knows; `life` is the `Lifecycle`."""
