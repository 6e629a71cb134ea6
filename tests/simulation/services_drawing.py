"""Draws scenarios of services by lot: the same number always gives the same one."""

from __future__ import annotations

import math
import random
import signal

import attrs

from simulation.scenario import Act, Block, Handler, Moment, Part
from simulation.services_scenario import Ask, Life, Policy, ServicePlan, ServicesScenario

FINE, COARSE = 1 / 64, 0.25

MOST_SECONDS = 24.0


def draw_services(seed: int) -> ServicesScenario:
    """Draw the scenario of this number."""
    return Drawing(random.Random(f"services of {seed}")).scenario()


@attrs.define
class Drawing:
    chance: random.Random
    grid: float = FINE

    def scenario(self) -> ServicesScenario:
        chance = self.chance
        self.grid = COARSE if chance.random() < 0.4 else FINE
        services = tuple(self.service() for _ in range(chance.choice((1, 1, 1, 2, 3))))
        asks = tuple(self.ask(services) for _ in range(chance.randint(0, 8)))
        worker_left_at = self.time(1.0, 8.0) if chance.random() < 0.2 else math.inf
        return ServicesScenario(
            services,
            asks,
            worker_left_at=worker_left_at,
            is_far=worker_left_at == math.inf and chance.random() < 0.3,
        )

    def time(self, least: float, most: float) -> float:
        return round(self.chance.uniform(least, most) / self.grid) * self.grid

    def service(self) -> ServicePlan:
        chance = self.chance
        at = self.time(0.0, 3.0) if chance.random() < 0.5 else 0.25
        has_on_start = chance.random() < 0.4
        return ServicePlan(
            at=at,
            block=Block(at + self.time(1.0, MOST_SECONDS - 4), chance.choice(("return", "return", "error", "cancel"))),
            policy=self.policy(),
            key=chance.choice(("a", "a", "a", "b", None)),
            lives=tuple(self._life(has_on_start=has_on_start) for _ in range(chance.randint(1, 5))),
            has_on_start=has_on_start,
            replaces=chance.random() < 0.3,
            startup_timeout=chance.choice((1.0, 2.5)),
            grace_period=chance.choice((0.0, 0.5, 1.0, 1.0)),
            reading_seconds=chance.choice((0.0, 0.25, 1.5)),
        )

    def policy(self) -> Policy:
        chance = self.chance
        delay, factor = chance.choice((0.25, 0.5, 1.0)), chance.choice((1.0, 1.5, 2.0, 3.0))
        when = chance.choice(("on_failure", "on_failure", "always", "always", "never"))
        stable_after = chance.choice((0.5, 1.0, 2.0, 30.0))
        is_recycled = when != "never" and stable_after < 30 and chance.random() < 0.3
        return Policy(
            when=when,
            delay=delay,
            factor=factor,
            max_delay=30.0 if factor == 1 else delay * chance.choice((1.0, 2.0, 4.0, 16.0)),
            jitter=chance.choice((0.0, 0.0, 0.25, 1.0)),
            stable_after=stable_after,
            give_up_after=chance.choice((1, 2, 3, 4, None)),
            max_lifetime=stable_after + chance.choice((0.5, 1.0, 3.0)) if is_recycled else math.inf,
        )

    def _life(self, *, has_on_start: bool) -> Life:
        chance = self.chance
        part = self._part()
        if not has_on_start:
            return Life(part)
        on_start = "raise" if chance.random() < 0.15 else "return"
        return Life(part, on_start, chance.choice((0.0, 0.0, 0.25, 1.0)))

    def _part(self) -> Part:
        chance = self.chance
        ready_at = self.time(0.0, 1.0) if chance.random() < 0.6 else 0.0
        moments: list[Moment] = []
        is_ready = chance.random() < 0.9
        if is_ready:
            acts = (Act("ready"), Act("send", chance.randint(1, 3))) if chance.random() < 0.4 else (Act("ready"),)
            moments.append(Moment(ready_at, acts))
        if chance.random() < (0.65 if is_ready else 0.4):
            after = ready_at + chance.choice((0.0, self.grid, 0.25, 0.5, 1.0, 1.0, 2.0, self.time(0.0, 6.0)))
            moments.append(Moment(after, self._end(chance.choice(("fail", "fail", "exit", "die", "complete")))))
        return Part(
            launch_seconds=chance.choice((0.0, 0.0, 0.0, 0.0, 0.25)),
            launch_fails=chance.random() < 0.04,
            plan=tuple(moments),
            at_stop=self._at_stop(),
        )

    def _at_stop(self) -> tuple[Moment, ...] | None:
        chance = self.chance
        if chance.random() < 0.15:
            return None
        word = chance.choice(("stopped", "stopped", "stopped", "fail", "exit", "complete"))
        return (Moment(chance.choice((0.0, 0.0, 0.25, 0.75)), self._end(word)),)

    def _end(self, word: str) -> tuple[Act, ...]:
        acts = [Act("send", self.chance.randint(1, 2))] if self.chance.random() < 0.3 else []
        if word == "die":
            acts.append(Act("die of a signal", int(signal.SIGSEGV)))
        elif word == "exit":
            acts.append(Act("exit", 3))
        else:
            acts += [Act(word), Act("exit")]
        return tuple(acts)

    def ask(self, services: tuple[ServicePlan, ...]) -> Ask:
        """Have something asked of one of them."""
        service = self.chance.randrange(len(services))
        return attrs.evolve(self.ask_of(services[service]), service=service)

    def ask_of(self, plan: ServicePlan) -> Ask:
        """Have something asked of a service, whose number is still to be filled in."""
        chance = self.chance
        at = self.time(plan.at, max(plan.at, min(plan.block.left_at + 1.0, MOST_SECONDS)))
        what = chance.choice(WHATS if plan.key is not None else WHATS_WITHOUT_KEY)
        handler = Handler((Moment(chance.choice((0.0, 0.0, 0.0, 0.5)), (Act("answer"),)),))
        return Ask(
            at=at,
            what=what,
            service=0,
            timeout=chance.choice((0.5, 2.0, math.inf)) if what == "call" else math.inf,
            grace=chance.choice((None, None, 0.0, 0.25)) if what in ("stop", "stop process") else None,
            cancelled_at=at + self.time(0.0, 2.0) if chance.random() < 0.25 else math.inf,
            handler=handler,
            part=self._passing() if what in ("probe", "replace") else Part(),
        )

    def _passing(self) -> Part:
        """A process that takes a key for a while."""
        return Part(plan=(Moment(0.0, (Act("ready"),)), Moment(self.time(0.0, 3.0), (Act("complete"), Act("exit")))))


WHATS_WITHOUT_KEY = (
    *("call", "call", "call", "call", "wait", "wait"),
    *("restart", "restart", "restart", "stop", "stop process", "die", "die", "die"),
)
WHATS = (*WHATS_WITHOUT_KEY, "probe", "probe", "replace")
