"""The life of one process as a state machine: which input means what in which phase. Sans-IO.

Theory of operation
-------------------

A process is in one of five *phases*. Three of them are the live states that users see:

* ``STARTING``: the startup deadline runs. It ends by `ready`, by an end, or by a stop.
* ``RUNNING``: the heartbeat deadline runs, that of `run_seconds`, and those of calls that were cancelled (`Overruns`).
* ``STOPPING``: it was asked to stop; the grace period runs, and the deadlines of calls go on. The watchdog is off.

The fourth, ``ENDING``, is internal: *how* the process ends is settled, but it has not exited yet. After `complete` it
has the grace period for that. After a missed deadline it has `DUMP_SECONDS` to dump its stacks, and then is killed.
After a kill it has `ABANDON_SECONDS`. Nothing that the child sends in this phase changes anything. Users still see the
state from before, because a terminal state means that the process has been reaped. ``ENDED`` is that terminal state.

`TABLE` (in `_state_table`) has one rule for each pair of phase and input that does anything: the phase that follows,
the end that is settled (if it is), and what the supervisor has to do. A pair without a rule changes nothing.
`Lifecycle.feed` looks up the rule, keeps the few facts that rules share (times, texts, the host's reason), and
returns the rule's action with the transition to publish, if there is one. `Lifecycle.conclude` makes the terminal
transition once the process has been reaped.

Two things are not in the table, since they do not choose between phases: a host that replaces or unloads a process
settles the exit reason whatever the child says (`Lifecycle.feed` with `HOST_STOP` notes it, `conclude` applies it),
and the deadlines (`Lifecycle.deadline` and `Lifecycle.due`).

Time is an argument, in seconds on any one monotonic clock. Time in which this program did not run does not count
against a process: `Lifecycle.extend_deadline` extends the deadline that was running. It does not extend `run_seconds`:
that is a limit on what the process does, which ran all the while.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import attrs

from spindle_trio._model import ExitReason, JsonValue, ProcessState
from spindle_trio._supervision._state_table import COMPLETED, OWN_WORDS, TABLE, Action, End, Input, Phase
from spindle_trio.abc import ABANDON_SECONDS, DUMP_SECONDS

if TYPE_CHECKING:
    from spindle_trio._supervision._overruns import Overruns

_STATE_OF_PHASE: Final = {
    Phase.STARTING: ProcessState.STARTING,
    Phase.RUNNING: ProcessState.RUNNING,
    Phase.STOPPING: ProcessState.STOPPING,
}


@attrs.frozen
class Transition:
    """A change of state that is to be published."""

    previous: ProcessState | None
    state: ProcessState
    at: float
    exit_reason: ExitReason | None = None
    error: str | None = None
    result: JsonValue = None


@attrs.frozen
class Step:
    """What follows one input."""

    action: Action
    """What the supervisor has to do."""
    transition: Transition | None = None
    """What is to be published after that."""


MOST_EXTENSION: Final = 3600.0
"""By how many seconds a process can put off its deadlines, in all."""

_IGNORED: Final = Step(Action.NOTHING)


class Lifecycle:
    """One process's place in the table, and the facts that go with it."""

    __slots__ = (
        "closed_deadline",
        "ended_at",
        "error",
        "exit_reason",
        "extension_left",
        "grace_deadline",
        "grace_period",
        "heartbeat_at",
        "heartbeat_deadline",
        "heartbeat_timeout",
        "host_reason",
        "is_dumping",
        "kill_deadline",
        "overruns",
        "phase",
        "ready_at",
        "result",
        "run_deadline",
        "run_seconds",
        "settled",
        "settled_at",
        "settled_by",
        "started_at",
        "startup_deadline",
        "startup_timeout",
        "state",
    )

    def __init__(
        self,
        *,
        startup_timeout: float,
        heartbeat_timeout: float,
        grace_period: float,
        run_seconds: float = math.inf,
        now: float,
    ) -> None:
        """Begin in `STARTING`, with the startup deadline running.

        Args:
            startup_timeout: seconds until `ready` must have come.
            heartbeat_timeout: seconds between two heartbeats; `math.inf` for no watchdog.
            grace_period: seconds between asking and killing.
            run_seconds: seconds that it may run from ready on; `math.inf` for no limit.
            now: the present.
        """
        self.phase: Phase = Phase.STARTING
        self.state: ProcessState = ProcessState.STARTING
        self.settled: End | None = None
        self.host_reason: ExitReason | None = None
        self.exit_reason: ExitReason | None = None
        self.error: str | None = None
        self.result: JsonValue = None
        self.startup_timeout: float = startup_timeout
        self.heartbeat_timeout: float = heartbeat_timeout
        self.grace_period: float = grace_period
        self.run_seconds: float = run_seconds
        self.started_at: float = now
        self.startup_deadline: float = now + startup_timeout
        self.ready_at: float | None = None
        self.heartbeat_at: float | None = None
        self.settled_at: float | None = None
        self.settled_by: Input | None = None
        self.ended_at: float | None = None
        self.heartbeat_deadline: float = math.inf
        self.run_deadline: float = math.inf
        self.grace_deadline: float = math.inf
        self.kill_deadline: float = math.inf
        self.closed_deadline: float = math.inf
        self.extension_left: float = MOST_EXTENSION
        self.overruns: Overruns | None = None  # made for the first one
        self.is_dumping: bool = False  # it was told to show its stacks, which ends it

    @property
    def is_settled(self) -> bool:
        """Whether it is settled how the process ends."""
        return self.phase in (Phase.ENDING, Phase.ENDED)

    @property
    def ending_state(self) -> ProcessState:
        """In which state it will have ended."""
        return self._end().state

    def begin(self) -> Transition:
        """Make the first transition, into `starting`."""
        return Transition(None, ProcessState.STARTING, self.started_at)

    def feed(
        self,
        said: Input,
        now: float,
        *,
        text: str | None = None,
        result: JsonValue = None,
        host_reason: ExitReason | None = None,
        grace: float | None = None,
    ) -> Step:
        """Take in one input, and say what follows.

        Args:
            said: what happened.
            now: when.
            text: the error that goes with it, where there is one.
            result: what a `COMPLETE` came to.
            host_reason: with `HOST_STOP`: `REPLACED` or `BACKEND_UNLOADED`.
            grace: with `STOP` or `HOST_STOP`: the grace period from now on, instead of the process's own. One that runs
                already can become shorter by it, and never longer.
        """
        if grace is not None:
            self._take_grace(grace, now)
        if said is Input.HOST_STOP and not self.is_settled and self.host_reason is None:
            self.host_reason = host_reason  # the first of the host's reasons stays, also over a plain stop
        rule = TABLE.get((self.phase, said))
        if rule is None:
            return _IGNORED
        if rule.end is not None:
            self.settled, self.settled_at, self.settled_by = rule.end, now, said
            self.error = text if text is not None else self._own_words(said)
            self.result = result if rule.end is COMPLETED else None
        if rule.action in (Action.ASK, Action.AWAIT_EXIT):
            self.grace_deadline = min(self.grace_deadline, now + self.grace_period)
        elif rule.action is Action.DUMP:
            self.is_dumping = True
            self.grace_deadline = min(self.grace_deadline, now + DUMP_SECONDS)
        elif rule.action is Action.KILL:
            self.kill_deadline = min(self.kill_deadline, now + ABANDON_SECONDS)
        elif rule.action is Action.ABANDON:
            self.grace_deadline = self.kill_deadline = math.inf
            self.error = "; ".join(filter(None, [self.error, text]))
        self.phase = rule.phase
        return Step(rule.action, self._enter(now))

    def _take_grace(self, grace: float, now: float) -> None:
        if self.phase in (Phase.STARTING, Phase.RUNNING):
            self.grace_period = grace
        elif now + grace < self.grace_deadline < math.inf:
            self.grace_period, self.grace_deadline = grace, now + grace

    def _enter(self, now: float) -> Transition | None:
        """Make the visible state follow the phase."""
        state = _STATE_OF_PHASE.get(self.phase, self.state)
        if state is self.state:
            return None
        previous, self.state = self.state, state
        if state is ProcessState.RUNNING:
            self.ready_at = self.heartbeat_at = now
            self.heartbeat_deadline = now + self.heartbeat_timeout
            self.run_deadline = now + self.run_seconds
        return Transition(previous, state, now)

    def _own_words(self, said: Input) -> str | None:
        """Say what went wrong where the table alone knows it."""
        if said is Input.REPORTED_STOPPED and self.phase is Phase.STOPPING:
            return None
        words = OWN_WORDS.get(said)
        return None if words is None else words.format(life=self)

    def conclude(self, now: float) -> Transition:
        """Make the terminal transition: the process has been reaped, or abandoned."""
        end = self._end()
        if self.host_reason is not None:
            self.result = None
        previous, self.state = self.state, end.state
        self.phase, self.exit_reason, self.ended_at = Phase.ENDED, end.exit_reason, now
        return Transition(previous, end.state, now, end.exit_reason, self.error, self.result)

    def _end(self) -> End:
        assert self.settled is not None, "a process concludes only once its end is settled"
        if self.host_reason is not None:  # the host's reason wins over whatever the child said
            return End(ProcessState.STOPPED, self.host_reason)
        return self.settled

    def note_heartbeat(self, at: float, now: float) -> None:
        """Take in when the process last beat: never before ready, never in the future, never backwards."""
        if self.heartbeat_at is not None:
            self.heartbeat_at = max(self.heartbeat_at, min(at, now))
            self.heartbeat_deadline = max(self.heartbeat_deadline, self.heartbeat_at + self.heartbeat_timeout)

    def extend_deadline(self, seconds: float, now: float) -> None:
        """Leave time that does not count against the process out of the deadline that runs (contract, rule 8).

        A process never has more than its whole period before it.

        Args:
            seconds: how long this program did not run, or did not read.
            now: the present, up to which that was.
        """
        match self.phase:
            case Phase.STARTING:
                self.startup_deadline = _put_off(self.startup_deadline, seconds, now + self.startup_timeout)
            case Phase.RUNNING:
                self.heartbeat_deadline = _put_off(self.heartbeat_deadline, seconds, now + self.heartbeat_timeout)
                if self.overruns is not None:
                    self.overruns.put_off(seconds, now)
            case Phase.STOPPING | Phase.ENDING:
                self.grace_deadline = _put_off(self.grace_deadline, seconds, now + self.grace_period)
                self.kill_deadline = _put_off(self.kill_deadline, seconds, now + ABANDON_SECONDS)
                if self.overruns is not None:
                    self.overruns.put_off(seconds, now)
            case _:
                pass

    def grant_time(self, seconds: float, now: float) -> bool:
        """Put off the startup deadline, or while it is stopping the kill, since the process asks for that.

        Args:
            seconds: how many it needs from now on.
            now: the present.

        Returns:
            Whether a deadline has moved.
        """
        if self.phase is Phase.STARTING:
            more = min(max(now + seconds - self.startup_deadline, 0), self.extension_left)
            self.startup_deadline += more
            self.startup_timeout += more
        elif self.phase is Phase.STOPPING:
            more = min(max(now + seconds - self.grace_deadline, 0), self.extension_left)
            self.grace_deadline += more
            self.grace_period += more
        else:
            return False
        self.extension_left -= more
        return more > 0

    def refuse_time(self) -> None:
        """Put off no deadline any more: whoever closes waits no longer than it was told."""
        self.extension_left = 0

    def note_control_closed(self, now: float, patience: float) -> None:
        """Start the clock for a process that closed its control lane: it should be gone within `patience` seconds."""
        self.closed_deadline = min(self.closed_deadline, now + patience)

    def deadline(self) -> float:
        """Tell when to look next, if nothing happens before."""
        match self.phase:
            case Phase.STARTING:
                return min(self.startup_deadline, self.closed_deadline)
            case Phase.RUNNING:
                deadline = min(self.heartbeat_deadline, self.run_deadline, self.closed_deadline)
                return deadline if self.overruns is None else min(deadline, self.overruns.deadline)
            case Phase.STOPPING:
                deadline = min(self.grace_deadline, self.closed_deadline)
                return deadline if self.overruns is None else min(deadline, self.overruns.deadline)
            case Phase.ENDING:
                return self.grace_deadline if self.kill_deadline == math.inf else self.kill_deadline
            case _:
                return math.inf

    def is_overdue(self, now: float) -> bool:
        """Whether its heartbeat deadline has passed and has not been judged yet."""
        return self.phase is Phase.RUNNING and now > self.heartbeat_deadline

    def due(self, now: float) -> Input | None:
        """Tell which deadline has passed, if one has."""
        if now < self.deadline():
            return None
        if now >= self.closed_deadline and not self.is_settled:
            return Input.CONTROL_CLOSED
        match self.phase:
            case Phase.STARTING:
                return Input.STARTUP_DEADLINE
            case Phase.RUNNING:
                if now >= self.heartbeat_deadline:
                    return Input.HEARTBEAT_DEADLINE
                return Input.RUN_DEADLINE if now >= self.run_deadline else Input.CALL_OVERRUN
            case Phase.STOPPING if now < self.grace_deadline:
                return Input.CALL_OVERRUN
            case Phase.ENDING if self.kill_deadline < math.inf:
                return Input.ABANDON_DEADLINE
            case _:
                return Input.GRACE_DEADLINE


def _put_off(deadline: float, seconds: float, at_most: float) -> float:
    """Move a deadline, if it runs."""
    return min(deadline + seconds, at_most) if deadline < math.inf else deadline
