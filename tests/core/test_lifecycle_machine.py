"""Any sequence of inputs, against an oracle that keeps the history, and looks up in the state table what follows."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spindle_trio._model import ExitReason, ProcessState
from spindle_trio._supervision._lifecycle import Lifecycle, Step, Transition
from spindle_trio._supervision._state_table import Action, Input, Phase
from support.state_table import follows

STARTUP, HEARTBEAT, GRACE, RUN, ABANDON, DUMP = 10.0, 4.0, 5.0, 9.0, 1.5, 0.3

DOES = {"kill": Action.KILL, "dump": Action.DUMP, "let go": Action.AWAIT_EXIT, "stopping": Action.ASK}


@attrs.define
class Story:
    """What has happened to one process, as a person would note it."""

    seen: list[ProcessState] = attrs.field(factory=lambda: [ProcessState.STARTING])
    ended_as: str | None = None
    host_reason: ExitReason | None = None
    asked_at: float | None = None
    killed_at: float | None = None
    dumps_at: float | None = None
    ready_at: float = -math.inf
    beat_at: float | None = None
    is_over: bool = False

    @property
    def state(self) -> ProcessState:
        return self.seen[-1]


class LifecycleMachine(RuleBasedStateMachine):
    @initialize(begin=st.floats(-1e3, 1e3))
    def begin(self, begin: float) -> None:
        self.now = begin
        self.life = Lifecycle(
            startup_timeout=STARTUP, heartbeat_timeout=HEARTBEAT, grace_period=GRACE, run_seconds=RUN, now=begin
        )
        self.story = Story()
        self.startup_at = begin + STARTUP

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 1.5, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.life.phase is Phase.STARTING)
    @rule(seconds=st.floats(0, 3))
    def the_host_did_not_read(self, seconds: float) -> None:
        self.now += seconds
        self.life.extend_deadline(seconds, self.now)
        self.startup_at = min(self.startup_at + seconds, self.now + STARTUP)

    @rule(age=st.floats(-2, 6))
    def the_child_beats(self, age: float) -> None:
        self.life.note_heartbeat(self.now - age, self.now)
        if self.story.beat_at is not None:
            self.story.beat_at = max(self.story.beat_at, min(self.now - age, self.now))

    # Rules of their own, or else most stories would end before they have begun.
    @rule()
    def it_becomes_ready(self) -> None:
        self.say(Input.READY)

    @rule()
    def it_is_asked_to_stop(self) -> None:
        self.say(Input.STOP)

    @precondition(lambda self: self.now > self.life.started_at + 2)
    @rule(
        said=st.sampled_from([said for said in Input if said is not Input.ABANDON_DEADLINE]),
        reason=st.sampled_from([ExitReason.REPLACED, ExitReason.BACKEND_UNLOADED]),
    )
    def something_happens(self, said: Input, reason: ExitReason) -> None:
        self.say(said, reason)

    @precondition(lambda self: self.life.due(self.now) is not None)
    @rule()
    def a_deadline_is_found_to_have_passed(self) -> None:
        due = self.life.due(self.now)
        assert due is not None
        if due is Input.ABANDON_DEADLINE:
            assert self.story.killed_at is not None
            assert self.now >= self.story.killed_at + ABANDON
            self.life.feed(due, self.now, text="abandoned")
            self.reap()
            return
        dumped_at = self.story.dumps_at
        step = self.say(due)
        assert step.action is (Action.DUMP if self.story.dumps_at != dumped_at else Action.KILL)

    @precondition(lambda self: self.story.ended_as is not None and not self.story.is_over)
    @rule()
    def reap(self) -> None:
        story = self.story
        assert story.ended_as is not None
        previous, state, reason = story.state, ProcessState(story.ended_as), ExitReason(story.ended_as)
        if story.host_reason is not None:
            state, reason = ProcessState.STOPPED, story.host_reason
        transition = self.life.conclude(self.now)
        assert (transition.previous, transition.state, transition.exit_reason) == (previous, state, reason)
        assert transition.at == self.now
        assert transition.result == ("result" if state is ProcessState.COMPLETED else None)
        story.seen.append(state)
        story.is_over = True

    def say(self, said: Input, reason: ExitReason = ExitReason.REPLACED) -> Step:
        story, before = self.story, self.story.state
        step = self.life.feed(said, self.now, result="result", host_reason=reason)
        does, end = "-", None
        if not story.is_over:
            does, end = follows(said.value, before.value if story.ended_as is None else "ending")
        if story.ended_as is None and said is Input.HOST_STOP:
            story.host_reason = story.host_reason or reason
        if does in ("running", "stopping"):
            story.seen.append(ProcessState(does))
        if does == "running":
            story.ready_at = story.beat_at = self.now
        story.ended_as = story.ended_as or end
        expected = DOES.get(does, Action.NOTHING)
        assert step.action is expected
        if expected is Action.DUMP:
            story.dumps_at = self.now
        if expected in (Action.ASK, Action.AWAIT_EXIT) and story.asked_at is None:
            story.asked_at = self.now
        if expected is Action.KILL and story.killed_at is None:
            story.killed_at = self.now
        moved = story.state is not before
        assert step.transition == (Transition(before, story.state, self.now) if moved else None)
        return step

    @invariant()
    def it_is_seen_where_the_story_has_it(self) -> None:
        if hasattr(self, "life"):
            assert self.life.state is self.story.state
            assert self.life.is_settled is (self.story.ended_as is not None)
            assert (self.life.phase is Phase.ENDED) is self.story.is_over
            assert self.life.heartbeat_at == self.story.beat_at
            assert self.life.deadline() == self.expected_deadline()

    def expected_deadline(self) -> float:
        story = self.story
        if story.is_over:
            return math.inf
        if story.ended_as is not None:
            if story.killed_at is not None:
                return story.killed_at + ABANDON
            asked = math.inf if story.asked_at is None else story.asked_at + GRACE
            return asked if story.dumps_at is None else min(asked, story.dumps_at + DUMP)
        if story.state is ProcessState.STARTING:
            return self.startup_at
        if story.state is ProcessState.RUNNING:
            assert story.beat_at is not None
            return min(story.beat_at + HEARTBEAT, story.ready_at + RUN)
        assert story.asked_at is not None
        return story.asked_at + GRACE


TestLifecycleMachine = LifecycleMachine.TestCase


class LongLifecycleMachine(LifecycleMachine):
    """The same, in the soak's numbers."""


TestLongLifecycleMachine = pytest.mark.soak(LongLifecycleMachine.TestCase)
TestLongLifecycleMachine.settings = settings.get_profile("soak")
