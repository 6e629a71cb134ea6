"""The oracle's model of one service: what each line of the log may be, and what has to follow it.

It believes the host about processes, which `oracle` judges: when each was ready, was asked to stop, and ended. From
these lines alone it says what the service had to do. Where the order of two things at one instant decides, and no line
shows it, both outcomes are possible, and the lines that follow decide.
"""

from __future__ import annotations

import math

import attrs

from simulation.scenario import Act
from simulation.services_playing import Final, Told
from simulation.services_scenario import OF_A_SERVICE, ServicePlan, generation_of
from simulation.stage import Entry

CLOSE = 5e-6
"""Seconds by which two times that ought to be the same may differ: the log rounds, and jitter is no binary fraction."""


@attrs.frozen
class Next:
    """The next start is due."""

    failures: int
    least: float
    most: float


@attrs.frozen
class Over:
    """Nothing follows."""

    failures: int
    state: str
    """`stopped`, `gave_up`; or `refused`: it never began."""


class ServiceModel:
    """One service. `complaints` collects what it should not have done."""

    def __init__(self, number: int, plan: ServicePlan, *, is_far: bool) -> None:
        """Begin before it is opened.

        Args:
            number: of the service.
            plan: what it is like.
            is_far: whether its worker is used over a channel. There a start that is called off returns before its
                process is gone.
        """
        self.number, self.plan = number, plan
        self._is_far = is_far
        self.complaints: list[str] = []
        self.phase = "closed"
        """`closed`, `starting`, `up`, `stopping`, `between` two generations, `over`."""
        self.generation = 0
        self.begun = 0
        """The generation of the last event `started`."""
        self.runs: dict[int, float] = {}
        """Generation → when users were let through."""
        self.ups: list[tuple[float, float, int]] = []
        """From when to when users were let through, and to which process."""
        self.sent: dict[int, int] = {}
        """Generation → how many messages it has sent."""
        self.closing_at = math.inf
        """When it was told to stop for good."""
        self.over_at = math.inf
        self.gone_at = -math.inf
        """When its process was gone that was left behind."""
        self.left: tuple[float, Final] | None = None
        self.takers: list[float] = []
        """When somebody asked for its key who may replace it."""
        self.stops: list[tuple[float, int]] = []
        """When somebody asked for a stop of which of its processes."""
        self.worker_leaves_at = math.inf
        self.ended_at = -math.inf
        self.lost_at = math.inf
        """When its key was taken between two generations."""
        self.next: list[Next | Over] = []
        self._failures = {0}
        self._ready_at: float | None = None
        self._let_at: float | None = None
        self._prepared: str | None = None
        self._causes: set[str] = set()
        self._hows: set[str] = set()
        self._ending_since = math.inf
        self._wanted, self._wanted_at = 0, math.inf
        self._is_opened = self._is_told = False
        self._leaving_at = math.inf
        self._last_word = ""
        self._live: int | None = None

    @property
    def may_have_key(self) -> tuple[float, float]:
        """From when to when its key may have been taken by it."""
        return self.plan.at - CLOSE, (math.inf if self._live is not None else max(self.gone_at, self.over_at)) + CLOSE

    def complain(self, at: float, text: str) -> None:
        self.complaints.append(f"{at:.6f} service {self.number}, generation {self.generation}: {text}")

    @property
    def has_ended_for_good(self) -> bool:
        """Whether nothing of it can need its key any more, as far as is known."""
        return self.phase in ("closed", "over") or any(isinstance(after, Over) for after in self.next)

    def is_holding(self, at: float) -> bool:
        """Whether its key must be kept for its next generation."""
        return (
            self.phase == "between"
            and self.generation > 0
            and not self.has_ended_for_good
            and min(self.closing_at, self.lost_at, self.worker_leaves_at) > at
            and not self._stops_that_matter()
        )

    def _stops_that_matter(self) -> list[float]:
        """Tell when somebody asked for a stop of a process that was ending, or had ended, and so gave up its key."""
        since = self._ending_since - CLOSE
        return [asked for asked, _ in self.stops if asked >= since] if self.plan.key is not None else []

    # ---- time

    def pass_time(self, at: float) -> None:
        """Look for what should have happened before this moment."""
        if self.plan.block.how == "cancel" and at > self.plan.block.left_at - CLOSE and self.phase != "closed":
            self.closing_at = min(self.closing_at, self.plan.block.left_at)
        before = at - CLOSE
        if self.phase == "up":
            assert self._let_at is not None, "it was let through"
            assert self._ready_at is not None, "and so it was ready"
            if max(self.closing_at, self._let_at) < before:
                self._late(at, "is up although it was told to stop")
            elif self._is_wanted and max(self._wanted_at, self._let_at) < before:
                self._late(at, "was not restarted when somebody asked for it")
            elif max(self._ready_at + self.plan.policy.max_lifetime, self._let_at) < before:
                self._late(at, "was not recycled")
            elif self._prepared == "raise":
                self._late(at, "is up although on_start has raised")
        elif self.phase == "between":
            if self.closing_at < before and self.ended_at < before:
                self._late(at, "is not over although it was told to stop, and nothing runs")
            elif max(map(self._due, self.next), default=-math.inf) < before:
                self._late(at, f"should have gone on: {self._shown()}")

    def _late(self, at: float, text: str) -> None:
        self.complain(at, text)
        self.phase = "over"  # one complaint is enough

    def _due(self, after: Next | Over) -> float:
        if isinstance(after, Over):
            return self.ended_at
        return min(after.most, max(self._wanted_at, self.ended_at)) if self._is_wanted else after.most

    @property
    def _is_wanted(self) -> bool:
        return self._wanted > self.generation

    def _shown(self) -> str:
        return ", or ".join(map(str, self.next)) or "never"

    # ---- lines

    def hear(self, line: Entry) -> None:
        """Take a line about it."""
        at, detail = line.at, line.detail
        match line.what:
            case "open":
                self.phase, self.ended_at = "between", at
                self.begun = 1
                self.next = [Next(0, at, math.inf)]  # it may have to wait for who has its key
            case "opened":
                self._is_opened = True
                self.runs[1] = at
                if detail == "stopped":  # before anybody could listen
                    self.phase, self.over_at = "over", at
            case "leaving":
                self._leaving_at = at
                self.close(at)
            case "left" if isinstance(detail, Final):
                self._leave(at, detail)
            case "launching":
                self._start(at, line.number)
            case "act" if isinstance(detail, tuple):
                generation = generation_of(line.number)
                self._act(generation, detail)
            case "launch failed":
                self._last_word = "LaunchError"
            case "event" if isinstance(detail, tuple) and line.number == self._live:
                self._hear_host(at, *detail)
            case "prepared":
                self._prepared = str(detail)
                if detail == "return":
                    self._let(at)
            case "told" if isinstance(detail, Told):
                self._hear_service(at, detail)
            case _:
                pass

    def close(self, at: float) -> None:
        """It is told to stop for good."""
        self.closing_at = min(self.closing_at, at)
        self._is_told = True

    def ask_restart(self, at: float) -> None:
        """Somebody asks for a restart."""
        if self._wanted <= self.begun and self.phase != "over" and self.closing_at > at:
            self._wanted, self._wanted_at = self.begun + 1, at

    def _act(self, generation: int, acts: tuple[Act, ...]) -> None:
        self.sent[generation] = self.sent.get(generation, 0) + sum(act.value for act in acts if act.what == "send")

    def _start(self, at: float, number: int) -> None:
        if self.phase != "between":
            self.complain(at, f"starts while it is {self.phase}")
        if self.closing_at < at - CLOSE:
            self.complain(at, "starts although it was told to stop")
        if self.lost_at < at - CLOSE:
            self.complain(at, "starts although somebody else has its key")
        if any(self._ending_since + CLOSE < asked < at - CLOSE for asked in self._stops_that_matter()):
            self.complain(at, "starts although somebody has stopped what it succeeds")
        fitting = [after for after in self.next if isinstance(after, Next) and self._fits(after, at)]
        if not fitting:
            self.complain(at, f"starts, but should do otherwise: {self._shown()}")
        if generation_of(number) != self.generation + 1:
            self.complain(at, f"{number} is not the next")
        self.generation = generation_of(number)
        self._failures = {after.failures for after in fitting} or self._failures
        self._live, self.phase = number, "starting"
        self._ready_at = self._let_at = self._prepared = None
        self._causes = set()
        self._ending_since = math.inf

    def _fits(self, after: Next, at: float) -> bool:
        if self._is_wanted and abs(at - max(self._wanted_at, self.ended_at)) < CLOSE:
            return True
        return after.least - CLOSE <= at <= after.most + CLOSE

    # ---- what the host says of its process

    def _hear_host(self, at: float, state: str, reason: str | None) -> None:
        if self.phase == "over":  # and what the host has still to end is not its affair
            if state not in ("starting", "running", "stopping"):
                self._live, self.gone_at = None, at
            return
        match state:
            case "starting":
                pass
            case "running":
                self._ready_at = at
                if not self.plan.has_on_start:
                    self._let(at)
            case "stopping":
                self._causes = self._causes_of_a_stop(at)
                if not self._causes:
                    self.complain(at, "is stopped, and nobody has asked for that")
                self._let_nobody_through(at)
                self.phase, self._ending_since = "stopping", at
            case _:
                self._end(at, state, reason)

    def _let(self, at: float) -> None:
        if self._ready_at is None:
            return
        self._let_at = at
        if self.phase == "starting":
            self.phase = "up"
        elif self.phase == "between" and at - self.ended_at < CLOSE:  # that it had ended was not known yet
            self._judge_end(at)

    def _let_nobody_through(self, at: float) -> None:
        if self.phase == "up" and self._let_at is not None:
            process = self.number * OF_A_SERVICE + self.generation
            self.ups.append((self._let_at, min(at, max(self._let_at, self.closing_at)), process))

    def _causes_of_a_stop(self, at: float) -> set[str]:
        causes: set[str] = set()
        if self.closing_at <= at + CLOSE:
            causes.add("closed")
        if self._prepared == "raise":
            causes.add("failed")
        if self._let_at is not None and self._ready_at is not None:
            expires_at = max(self._ready_at + self.plan.policy.max_lifetime, self._let_at)
            if self._is_wanted or abs(expires_at - at) < CLOSE:
                causes.add("recycled")
        others = [*self.takers, *(asked for asked, process in self.stops if process == self._live)]
        if any(abs(asked - at) < CLOSE for asked in others):
            causes.add("stopped")
        if self.worker_leaves_at <= at + CLOSE:
            causes.add("unloaded")
        return causes

    def _end(self, at: float, state: str, reason: str | None) -> None:
        self._let_nobody_through(at)
        if reason in ("replaced", "backend_unloaded"):
            hows = {reason}
        elif self.phase == "stopping":
            hows = self._causes
        elif state == "stopped":
            hows = {"closed"} if self.closing_at <= at + CLOSE else set()
            if self.worker_leaves_at <= at + CLOSE:
                hows.add("unloaded")
        else:
            hows = {"completed" if state == "completed" and self._ready_at is not None else "failed"}
            hows |= self._causes_of_a_stop(at) & {"closed", "failed", "recycled"}  # a stop was on its way
        if self._last_word != "LaunchError":
            self._last_word = "StartupTimeoutError" if state == "timed_out" else "StartupFailedError"
            if self.phase == "stopping" or state == "stopped":
                self._last_word = "StartupCancelledError"
            if self._prepared == "raise":
                self._last_word = "PreparationError"
        self._hows = hows
        self._judge_end(at)
        if not self.next:
            self.complain(at, f"has ended as {state}, and nobody has asked for that")
        self._live, self.phase, self.ended_at = None, "between", at
        self._ending_since = min(self._ending_since, at)

    def _judge_end(self, at: float) -> None:
        """Say what follows an end."""
        if self.generation == 1 and self._let_at is None:
            self.next = [Over(0, "refused")]
        else:
            self.next = [
                after for failures in self._failures for how in self._hows for after in self._after(failures, how, at)
            ]
            if self.generation == 1 and not self._is_opened:
                self.next.append(Over(0, "refused"))
        if self.closing_at <= at + CLOSE:
            self.next += [Over(after.failures, "stopped") for after in self.next]

    def _after(self, failures: int, how: str, at: float) -> list[Next | Over]:
        """Say what may follow an end."""
        policy = self.plan.policy
        if how == "recycled":
            return [Next(0 if is_proved else failures, at, at) for is_proved in self._may_be_proved(at)]
        unwanted = {"never": (), "on_failure": ("failed",), "always": ("failed", "completed")}[policy.when]
        if how not in unwanted:
            return [Over(failures, "stopped")]
        possible: list[Next | Over] = []
        for is_proved in self._may_be_proved(at):
            count = 1 if is_proved else failures + 1
            if policy.give_up_after is not None and count >= policy.give_up_after:
                possible.append(Over(count, "gave_up"))
                continue
            delay = policy.delay
            for _ in range(count - 1):
                delay = min(delay * policy.factor, policy.max_delay)
            possible.append(Next(count, at + delay * (1 - policy.jitter), at + delay))
        return possible

    def _may_be_proved(self, at: float) -> set[bool]:
        """Say whether it has been ready for long enough."""
        if self._ready_at is None or self._let_at is None:
            return {False}
        uptime = at - self._ready_at
        if abs(uptime - self.plan.policy.stable_after) < CLOSE:
            return {True, False}
        is_proved = uptime > self.plan.policy.stable_after
        return {is_proved, False} if at - self._let_at < CLOSE else {is_proved}

    # ---- what it says itself

    def _hear_service(self, at: float, told: Told) -> None:
        match told.kind:
            case "started":
                self.begun += 1
                if told.generation != self.begun:
                    self.complain(at, f"says {told}")
                if self._is_told:
                    self.complain(at, "says that it starts although it was told to stop")
            case "running":
                self.runs[told.generation] = at
                if self._let_at is None or abs(self._let_at - at) > CLOSE or told.failures not in self._failures:
                    self.complain(at, f"says {told}, but was ready at {self._let_at}, after {self._failures}")
            case "ended" if self.next and self.phase == "between" and self.lost_at == math.inf:
                self.next = [after for after in self.next if after.failures == told.failures] or self._wrong(at, told)
            case "restart_scheduled":
                begins = at + (told.seconds or 0.0)
                fitting = [after for after in self.next if isinstance(after, Next) and self._fits(after, begins)]
                self.next = [attrs.evolve(after, least=begins, most=begins) for after in fitting]
                if not self.next:
                    self.complain(at, f"says {told}")
            case "gave_up" | "stopped":
                self._be_over(at, told)
            case _:
                pass

    def _may_leave_behind(self, at: float) -> bool:
        """Whether its process may be gone only later: there is nobody who could tell when."""
        was_ready = self._ready_at is not None and self._ready_at < self.closing_at - CLOSE
        return self.worker_leaves_at <= at or (self._is_far and not was_ready and self.closing_at <= at + CLOSE)

    def _wrong(self, at: float, told: Told) -> list[Next | Over]:
        self.complain(at, f"says {told}, but it should do otherwise: {self._shown()}")
        return self.next

    def _be_over(self, at: float, told: Told) -> None:
        if self.phase in ("starting", "up", "stopping") and not self._may_leave_behind(at):
            self.complain(at, f"says {told}, but it is {self.phase}")
        wanted = [after for after in self.next if isinstance(after, Over) and after.state == told.kind]
        may_be_lost = (
            min(self.lost_at, self.worker_leaves_at) <= at + CLOSE
            or any(self.ended_at - CLOSE <= asked for asked in self.takers)
            or bool(self._stops_that_matter())
        )
        is_asked = self.closing_at <= at + CLOSE or may_be_lost
        if not wanted and not (told.kind == "stopped" and is_asked):
            self.complain(at, f"says {told}, but it should do otherwise: {self._shown()}")
        self.phase, self.over_at = "over", at

    def _leave(self, at: float, final: Final) -> None:
        self.left = at, final
        if self._live is not None and not self._may_leave_behind(at):
            self.complain(at, "its block is left, and its process lives")
        if self._is_opened:
            self._leave_opened(at, final)
        else:
            self._be_refused(at, final)
        self.phase = "over"
        self.over_at = min(self.over_at, at)

    def _leave_opened(self, at: float, final: Final) -> None:
        name = str(final.outcome[0])
        block = self.plan.block
        own = {"return": "returned", "error": "Mishap", "cancel": "cancelled"}[block.how]
        is_own_time = block.left_at <= at + CLOSE
        if abs(at - max(self._leaving_at, self.ended_at)) > CLOSE:
            self.complain(
                at, f"its block was being left at {self._leaving_at}, and its process ended at {self.ended_at}"
            )
        if final.state == "gave_up":
            allowed = {"ServiceGaveUpError"} | ({"Mishap"} if own == "Mishap" and is_own_time else set())
            if name == "ServiceGaveUpError" and final.outcome[1] != final.failures:
                self.complain(at, f"gives up after {final}")
        else:
            allowed = {own} if is_own_time else set()
            if self.worker_leaves_at <= at:
                allowed.add("ClosedResourceError")
        if name not in allowed:
            self.complain(at, f"its block is left as {final}, not as one of {sorted(allowed)}")
        if self.next and final.failures not in {after.failures for after in self.next} | self._failures:
            self.complain(at, f"it has {final}, but {self._shown()}")

    def _be_refused(self, at: float, final: Final) -> None:
        name = str(final.outcome[0])
        allowed = {self._last_word} if self.generation else {"DuplicateKeyError"}
        allowed |= {"ServiceGaveUpError" for after in self.next if isinstance(after, Over) and after.state == "gave_up"}
        if self._prepared == "raise":
            allowed.add("PreparationError")
        if self.closing_at <= at + CLOSE:
            allowed |= {"cancelled", "StartupCancelledError"}
        if self.worker_leaves_at <= at + CLOSE:
            allowed |= {"ClosedResourceError", "StartupCancelledError"}
        if name not in allowed:
            self.complain(at, f"its start was refused as {final}, not as one of {sorted(allowed)}")
