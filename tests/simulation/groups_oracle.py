"""Judges a log of one group: says what in it is not as it has to be.

As the oracle of services it believes the host about processes. It judges the order of starts and stops, the count of
failures and the delays, which services are taken along, and that nothing starts which was stopped. Where two things
happen at one instant, either may have been first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

from simulation.drawing import EXITS
from simulation.scenario import FOREVER
from simulation.services_model import CLOSE
from simulation.services_playing import STRANGER, Final, Told
from simulation.services_scenario import (
    OF_STRANGERS,
    GroupPlan,
    ServicePlan,
    ServicesScenario,
    generation_of,
)
from simulation.stage import Entry, Log


def judge_group(scenario: ServicesScenario, log: Log) -> list[str]:
    """List what is wrong."""
    assert scenario.group is not None, "there is a group"
    judge = _Judge(scenario, scenario.group, log)
    judge.hear_all()
    return [*log.remarks, *judge.complaints]


@attrs.define(eq=False)
class _Member:
    number: int
    plan: ServicePlan
    phase: str = "new"
    """`new`, `down`, `starting`, `up`, `stopping`, `out`."""
    generation: int = 0
    begun: int = 0
    """The generation of which it has said that it starts."""
    has_begun: bool = False
    exists: bool = False
    """Whether it has a process, as the stage knows."""
    ready_at: float | None = None
    prepared: str | None = None
    is_let: bool = False
    """Whether users were let through to its process."""
    ended_at: float = -math.inf
    least: float = -math.inf
    """It starts no sooner."""
    most: float = -math.inf
    """It starts then, if nothing is in its way."""
    taken_at: float = math.inf
    """When another one's end, or restart, has taken it along."""
    may_be_taken: bool = False
    """It began at the very instant at which another one ended, so that may take it along or not."""
    causes: frozenset[str] = frozenset()
    """Why its process was asked to stop."""
    wanted: int = 0
    """The generation that somebody has asked for."""
    wanted_at: float = math.inf
    stopped_at: float = math.inf
    """When somebody stopped the service, or its process at a moment in which that may stop the service."""
    is_recovering: bool = False
    may_recover: bool = False
    """It was added about when another one had failed, so it may count as one that is started again."""
    recovers_at: float = -math.inf
    """When that was over."""
    may_be_out: bool = False
    may_have_given_up: bool = False


class _Judge:
    def __init__(self, scenario: ServicesScenario, plan: GroupPlan, log: Log) -> None:
        self.plan, self.log = plan, log
        self.scenario = scenario
        self.complaints: list[str] = []
        self.members = [_Member(number, member) for number, member in enumerate(scenario.services)]
        self.closing_at = math.inf
        self.failures = {0}
        self.recovered_at = {-math.inf}
        self.asked: dict[int, int] = {}
        """Ask → its service."""
        self.is_unsure = False
        """Whether it is open since when all have run."""

    def complain(self, at: float, text: str) -> None:
        self.complaints.append(f"{at:.6f} {text}")

    # ---- the log

    def hear_all(self) -> None:
        """Go through all lines."""
        before = 0.0
        for line in self.log.entries:
            if line.at > before + CLOSE:
                self._look_for_what_is_late(line.at)
            before = line.at
            if line.worker == STRANGER:
                self._hear_stranger(line)
            else:
                self._hear(self.members[line.worker], line)
        if self.closing_at == math.inf:
            self.complain(FOREVER, "its block is never left")

    def _hear_stranger(self, line: Entry) -> None:
        match line.what, line.detail:
            case "leaving group", _:
                self.closing_at = min(self.closing_at, line.at)
            case "launching", _:
                owner = self.members[self.asked[line.number - OF_STRANGERS]]
                if owner.has_begun and owner.phase != "out" and not self._may_be_over(owner, line.at):
                    self.complain(
                        line.at, f"{line.number} has the key of service {owner.number}, which is {owner.phase}"
                    )
            case "left group", Final():
                self._leave(line.at, line.detail)
            case _:
                pass

    def _hear(self, member: _Member, line: Entry) -> None:
        at, detail = line.at, line.detail
        match line.what, detail:
            case "open", _:
                member.phase, member.least = "down", at
                member.may_recover = any(other.is_recovering or other.phase == "down" for other in self.members)
            case "opened", (outcome, *_):
                member.has_begun = outcome == "running"
                if outcome != "running":
                    member.phase = "out"
            case "asked", _:
                self.asked[line.number] = member.number
                self._hear_ask(member, at, str(detail))
            case "launching", _:
                self._start(member, at, line.number)
            case "launched", _:
                if member.exists:
                    self.complain(at, f"service {member.number} has two processes")
                member.exists = True
            case "killed", _:
                member.exists = False
            case "act", tuple():
                member.exists = member.exists and not any(act.what in EXITS for act in detail)
            case "event", (state, reason):
                self._hear_host(member, at, str(state), reason)
            case "prepared", _:
                member.prepared = str(detail)
                if detail == "return":
                    self._let(member, at)
            case "told", Told():
                self._hear_service(member, at, detail)
            case _:
                pass

    def _hear_ask(self, member: _Member, at: float, what: str) -> None:
        if what == "stop" and member.has_begun:
            member.stopped_at = min(member.stopped_at, at)
        elif what == "stop process" and (member.phase in ("down", "stopping") or abs(at - member.ended_at) < CLOSE):
            member.may_be_out = member.plan.key is not None
        elif what == "stop process":
            member.causes |= {"stopped"}
            member.may_be_out = True
        elif what == "restart" and member.has_begun and member.phase != "out":
            begun = max(member.generation, member.begun)
            if member.wanted <= begun:
                member.wanted, member.wanted_at = begun + 1, at

    # ---- members

    def _others(self, member: _Member) -> Iterator[_Member]:
        """Go through those that a member takes along."""
        for other in self.members:
            if other is member or self.plan.strategy == "one_for_one":
                continue
            if self.plan.strategy == "one_for_all" or other.number > member.number:
                yield other

    def _may_be_over(self, member: _Member, at: float) -> bool:
        return member.may_be_out or member.may_have_given_up or min(member.stopped_at, self.closing_at) <= at + CLOSE

    def _start(self, member: _Member, at: float, number: int) -> None:
        if member.phase != "down":
            self.complain(at, f"service {member.number} starts while it is {member.phase}")
        if min(self.closing_at, member.stopped_at) < at - CLOSE:
            self.complain(at, f"service {member.number} starts although it was told to stop")
        just_ended = any(
            abs(other.ended_at - at) < CLOSE and other.has_begun and other.phase == "down"
            for other in self.members
            if member in self._others(other)
        )
        if (
            at < member.least - CLOSE
            and not just_ended
            and not any(other.wanted > other.generation for other in self.members)
        ):
            self.complain(at, f"service {member.number} starts before {member.least}")
        if generation_of(number) != member.generation + 1:
            self.complain(at, f"{number} is not the next")
        if self.plan.strategy != "one_for_one":
            for other in self.members[: member.number]:
                is_up = other.phase == "up" or abs(other.ended_at - at) < CLOSE
                if other.has_begun and other.phase != "out" and not is_up and not self._may_be_over(other, at):
                    self.complain(at, f"service {member.number} starts while service {other.number} is {other.phase}")
        member.phase, member.generation = "starting", generation_of(number)
        member.ready_at = member.prepared = None
        member.is_let = member.may_be_out = member.may_have_given_up = False
        member.causes = frozenset()
        member.taken_at, member.may_be_taken = math.inf, just_ended
        if member.wanted <= member.generation:
            member.wanted_at = math.inf

    def _hear_host(self, member: _Member, at: float, state: str, reason: str | None) -> None:
        match state:
            case "starting":
                pass
            case "running":
                member.ready_at = at
                if not member.plan.has_on_start:
                    self._let(member, at)
            case "stopping":
                self._stop(member, at)
                member.phase = "stopping"
            case _:
                self._end(member, at, state, reason)

    def _let(self, member: _Member, at: float) -> None:
        if member.ready_at is None:
            return
        if member.phase == "down" and at - member.ended_at < CLOSE:  # that it had ended was not known yet
            self._fail(member, at, was_ready=True, may_be_none=True)
            member.may_be_out = True
        member.is_let = True
        if member.may_recover:
            member.may_recover = False
            self.recovered_at.add(at)
        if member.phase == "stopping" and member.is_recovering:
            member.is_recovering, self.is_unsure = False, True
        if member.phase == "starting":
            member.phase = "up"
            if member.is_recovering:
                member.is_recovering, member.recovers_at = False, at
                self.recovered_at = {at}
                if not any(other.is_recovering for other in self.members if other.phase != "out"):
                    self.is_unsure = False

    def _stop(self, member: _Member, at: float) -> None:
        """A process is asked to stop: somebody must have wished that, and in a group its successors are gone."""
        policy = member.plan.policy
        if at - member.recovers_at < CLOSE:
            self.is_unsure = True  # it was called off, perhaps before it counted as one that runs
            member.is_recovering = True
        causes = {*member.causes}
        if self.closing_at <= at + CLOSE:
            causes.add("closed")
        is_start_cancelled = not member.has_begun and self.plan.block.left_at <= at + CLOSE
        if member.stopped_at <= at + CLOSE or is_start_cancelled:
            causes.add("left")
        if member.wanted > member.generation or (
            member.ready_at is not None and member.ready_at + policy.max_lifetime <= at + CLOSE
        ):
            causes.add("recycled")
            self._take_along(member, at)
        if member.prepared == "raise":
            causes.add("raised")
        for other in self.members:
            if member not in self._others(other):
                continue
            expires_at = (other.ready_at or math.inf) + other.plan.policy.max_lifetime
            is_going = "recycled" in other.causes and (other.phase == "stopping" or other.ended_at >= at - CLOSE)
            if other.wanted > other.generation or is_going or expires_at <= at + CLOSE:
                member.taken_at = min(member.taken_at, at)
            member.may_be_taken = member.may_be_taken or other.ended_at >= at - CLOSE
        if member.taken_at <= at + CLOSE or member.may_be_taken:
            causes.add("taken")
        if not causes:
            self.complain(at, f"service {member.number} is stopped, and nobody has asked for that")
        member.causes = frozenset(causes)
        if causes <= {"closed"} or (causes <= {"taken", "closed"} and self.plan.strategy != "one_for_one"):
            for other in self.members[member.number + 1 :]:
                if other.exists:
                    self.complain(at, f"service {member.number} is stopped before service {other.number} is gone")

    def _take_along(self, member: _Member, at: float) -> None:
        for other in self._others(member):
            if other.phase in ("starting", "up", "stopping"):
                other.taken_at = min(other.taken_at, at)

    def _end(self, member: _Member, at: float, state: str, reason: str | None) -> None:
        was_ready, was_let = member.ready_at is not None, member.is_let
        was_up = member.phase == "up"
        is_asked = member.phase == "stopping"
        member.phase, member.ended_at = "down", at
        if self.closing_at <= at + CLOSE or not member.has_begun:
            member.may_be_out = True
            if self.closing_at < at - CLOSE:
                return
            if not member.has_begun and member.taken_at > at + CLOSE and not was_up:
                return  # its start is refused, and that is no failure
        if is_asked and "stopped" in member.causes:
            member.may_be_out = True
            if member.causes == {"stopped"}:
                return
        if member.stopped_at <= at + CLOSE:
            member.may_be_out = True
            return
        if was_let and any(at - since >= self.plan.policy.stable_after - CLOSE for since in self.recovered_at):
            row_may_end: set[int] = {0}  # by a recycled process that had proved itself
        else:
            row_may_end = set()
        when = member.plan.policy.when
        has_failed = not (state == "completed" and was_ready) or "raised" in member.causes
        if is_asked and "raised" not in member.causes:
            self.failures |= row_may_end
            member.least = max(member.least, at)
            member.most = max(member.most, at)
            member.may_be_out = member.may_be_out or (when == "never" and "taken" in member.causes)
            return
        is_taken = member.taken_at <= at + CLOSE
        if is_taken:
            self.failures |= row_may_end
            member.least, member.most = max(member.least, at), math.inf if when == "never" else max(member.most, at)
            member.may_be_out = member.may_be_out or when == "never"
            if member.taken_at < at - CLOSE:
                return
        if when == "never" or (not has_failed and when != "always"):
            member.may_be_out = True
            return
        may_be_none = (
            is_taken or member.may_be_taken or member.may_be_out or "recycled" in self._may_be_asked(member, at)
        )
        self._fail(member, at, was_ready=was_let, may_be_none=may_be_none)

    def _may_be_asked(self, member: _Member, at: float) -> set[str]:
        """Say whether its own recycling was just about to begin."""
        for other in self.members:
            if other is not member and (member not in self._others(other) or other.phase != "up"):
                continue
            expires_at = math.inf if other.ready_at is None else other.ready_at + other.plan.policy.max_lifetime
            if expires_at < at + CLOSE or other.wanted > other.generation:
                return {"recycled"}
        return set()

    def _fail(self, member: _Member, at: float, *, was_ready: bool, may_be_none: bool) -> None:
        policy = self.plan.policy
        counts: set[int] = set(self.failures) if may_be_none else set()
        is_whole = not any(other.is_recovering for other in self.members if other.phase != "out")
        is_close = any(abs(other.ended_at - at) < CLOSE for other in self.members if other is not member)
        may_be_none = may_be_none or is_close
        is_unsure = self.is_unsure or any(other.may_recover for other in self.members if other.phase != "out")
        for failures in self.failures:
            for since in self.recovered_at:
                proved = {is_whole and was_ready and at - since >= policy.stable_after}
                if abs(at - since - policy.stable_after) < CLOSE or is_unsure:
                    proved = {True, False}
                if is_unsure or may_be_none:  # which of several ends comes first, and which of them counts
                    counts |= {*range(1, failures + 3)}
                counts |= {1 if is_proved else failures + 1 for is_proved in proved}
        self.failures = counts
        delays = [self._delay(count) for count in counts]
        if policy.give_up_after is not None and max(counts) >= policy.give_up_after:
            for other in self.members:
                other.may_have_given_up |= abs(other.ended_at - at) < CLOSE
        member.is_recovering = True
        self.is_unsure = self.is_unsure or may_be_none
        for other in (member, *self._others(member)):
            if other is not member:
                if other.phase in ("starting", "up", "stopping"):
                    other.taken_at = min(other.taken_at, math.inf if may_be_none else at)
                    other.may_be_taken = True
                other.is_recovering = other.is_recovering or other.phase in ("starting", "up", "stopping", "down")
            other.least = max(other.least, at + min(delays) * (1 - policy.jitter) if not may_be_none else at)
            other.most = math.inf if may_be_none else max(other.most, at + max(delays))

    def _delay(self, failures: int) -> float:
        policy = self.plan.policy
        delay = policy.delay
        for _ in range(failures - 1):
            delay = min(delay * policy.factor, policy.max_delay)
        return delay

    # ---- what the services say

    def _hear_service(self, member: _Member, at: float, told: Told) -> None:
        match told.kind:
            case "started":
                member.begun = told.generation
            case "ended" if not self._may_be_over(member, at):
                if told.failures not in self.failures:
                    self.complain(at, f"service {member.number} says {told}, but there were {self.failures}")
                said = told.failures  # another end at this instant may still be to be counted
                self.failures = {failures for failures in self.failures if failures in (said, said + 1, 1)} or {said}
            case "restart_scheduled":
                seconds = told.seconds or 0.0  # since the end that it follows, its own or that of another one
                possible = [at + seconds, *(other.ended_at + seconds for other in self.members)]
                is_wanted = any(other.wanted > other.generation for other in self.members)
                if not any(
                    (begins > member.least - CLOSE or is_wanted) and begins < max(member.most, at) + CLOSE
                    for begins in possible
                ):
                    self.complain(
                        at, f"service {member.number} says {told}, but is due from {member.least} to {member.most}"
                    )
            case "gave_up":
                if not member.may_have_given_up:
                    self.complain(at, f"service {member.number} says {told}, and there were {self.failures}")
                self.closing_at = min(self.closing_at, at)
                member.phase = "out"
            case "stopped":
                if member.phase in ("starting", "up", "stopping"):
                    self.complain(at, f"service {member.number} says {told}, but it is {member.phase}")
                if not self._may_be_over(member, at):
                    self.complain(at, f"service {member.number} says {told}, and nobody has wished that")
                member.phase = "out"
            case _:
                pass

    # ---- time

    def _look_for_what_is_late(self, at: float) -> None:
        """Look for what should have happened before this moment."""
        before = at - CLOSE
        if self.closing_at < before:
            return
        is_busy = any(member.phase in ("starting", "stopping") for member in self.members)
        for member in self.members:
            if is_busy and (self.plan.strategy != "one_for_one" or member.phase in ("starting", "stopping")):
                continue
            if member.phase == "down" and member.has_begun and not self._may_be_over(member, at):
                due = member.most if member.wanted <= member.generation else max(member.wanted_at, member.ended_at)
                blocked = self.plan.strategy != "one_for_one" and any(
                    other.phase not in ("up", "out") for other in self.members[: member.number]
                )
                if due < before and not blocked:
                    self.complain(at, f"service {member.number} should have been started at {due}")
                    member.may_be_out = True
            elif member.phase == "up":
                self._look_at_one_that_is_up(member, at, before)

    def _look_at_one_that_is_up(self, member: _Member, at: float, before: float) -> None:
        assert member.ready_at is not None, "it is up"
        if member.taken_at < before:
            self.complain(at, f"service {member.number} was not taken along")
            member.taken_at = math.inf
        elif member.stopped_at < before:
            self.complain(at, f"service {member.number} is up although it was told to stop")
            member.stopped_at = math.inf
        elif member.wanted > member.generation and member.wanted_at < before:
            self.complain(at, f"service {member.number} was not restarted")
            member.wanted = 0
        elif member.ready_at + member.plan.policy.max_lifetime < before and not member.plan.has_on_start:
            self.complain(at, f"service {member.number} was not recycled")
            member.ready_at = at

    def _leave(self, at: float, final: Final) -> None:
        name = str(final.outcome[0])
        for member in self.members:
            if member.exists:
                self.complain(at, f"the block is left, and service {member.number} has a process")
        own = {"return": "returned", "error": "Mishap", "cancel": "cancelled"}[self.plan.block.how]
        if any(member.may_have_given_up for member in self.members):
            allowed = {own, "ServiceGaveUpError"}
            if name == "ServiceGaveUpError" and final.outcome[1] not in self.failures:
                self.complain(at, f"the group is left as {final}, and there were {self.failures}")
        else:
            allowed = {own}
        if name not in allowed:
            self.complain(at, f"the group is left as {final}, not as one of {sorted(allowed)}")
