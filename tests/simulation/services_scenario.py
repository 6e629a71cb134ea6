"""A simulation of services, as frozen values: what each generation of each service is like, and what is asked of them.

As in `scenario`, times are seconds since the beginning on a grid of binary fractions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import attrs

from simulation.scenario import Block, Handler, Part

KIND: Final = "service"
"""Of all processes with a key."""

OF_A_SERVICE: Final = 1_000
"""Process 3 007 is generation 7 of service 3."""

OF_STRANGERS: Final = 1_000_000
"""The process of command 7 is 1 000 007."""


@attrs.frozen
class Policy:
    """What a service's `RestartPolicy` is made of; its rules are written down once more in the oracle."""

    when: str = "on_failure"
    delay: float = 0.5
    factor: float = 2.0
    max_delay: float = 30.0
    jitter: float = 0.0
    stable_after: float = 30.0
    give_up_after: int | None = 8
    max_lifetime: float = math.inf


@attrs.frozen
class Life:
    """One generation."""

    part: Part = Part()
    on_start: str | None = None
    """What `on_start` does at last: `return` or `raise`; `None`: the first one that has it decides for all."""
    on_start_seconds: float = 0.0


@attrs.frozen
class ServicePlan:
    """One service."""

    at: float
    """When its block is entered."""
    block: Block
    policy: Policy = Policy()
    key: str | None = None
    lives: tuple[Life, ...] = (Life(),)
    """Of its generations; the last one goes on for ever."""
    has_on_start: bool = False
    replaces: bool = False
    """Whether it is opened with `replace_existing`."""
    startup_timeout: float = 5.0
    grace_period: float = 1.0
    reading_seconds: float = 0.0
    """How long the reader of its messages takes over each."""

    def life(self, generation: int) -> Life:
        """Tell what a generation is like."""
        return self.lives[min(generation, len(self.lives)) - 1]


@attrs.frozen
class Ask:
    """Something that is asked, in a task of its own."""

    at: float
    what: str
    """Of a service: `stop`, `restart`, `wait`, `call`. About its process: `stop process`, as anybody could; `die`, of a
    signal. About its key: `probe`, to which it has to be refused, and `replace`.
    """
    service: int
    timeout: float = math.inf
    """Of a call."""
    grace: float | None = None
    """Of a stop."""
    cancelled_at: float = math.inf
    handler: Handler = Handler()
    """Of a call."""
    part: Part = Part()
    """Of the process that has taken the key."""


@attrs.frozen
class GroupPlan:
    """A group, whose members are the services of a scenario, in order; their own blocks and times do not count."""

    at: float
    block: Block
    strategy: str
    policy: Policy


@attrs.frozen
class ServicesScenario:
    """All of it."""

    services: tuple[ServicePlan, ...]
    asks: tuple[Ask, ...]
    worker_left_at: float = math.inf
    """When the worker is closed, which the services' blocks may outlive."""
    is_far: bool = False
    """Whether the services use their worker over a channel."""
    group: GroupPlan | None = None

    def describe(self) -> str:
        """Write it down for people, a line for each thing."""
        lines = [f"worker left at {self.worker_left_at}, {'far' if self.is_far else 'near'}"]
        if self.group is not None:
            lines.append(f"{self.group}")
        for number, plan in enumerate(self.services):
            lines.append(f"service {number}: {attrs.evolve(plan, lives=())}")
            lines += [f"    life {place}: {life}" for place, life in enumerate(plan.lives, 1)]
        return "\n".join([*lines, *(f"{number:3d}: {ask}" for number, ask in enumerate(self.asks))])


def options_of(policy: Policy) -> Mapping[str, object]:
    """Give the options of a `RestartPolicy`."""
    return attrs.asdict(policy)


def service_of(process: int) -> int | None:
    """Tell of which service a process is; `None` for strangers."""
    return None if process >= OF_STRANGERS else process // OF_A_SERVICE


def generation_of(process: int) -> int:
    """Tell which generation of its service a process is."""
    return process % OF_A_SERVICE
