"""Draws scenarios of a group by lot, with the drawing of services."""

from __future__ import annotations

import math
import random

import attrs

from simulation.scenario import Block
from simulation.services_drawing import Drawing
from simulation.services_scenario import Ask, GroupPlan, ServicePlan, ServicesScenario

STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")

WHATS = (
    *("restart", "restart", "stop", "stop process", "die", "die", "die", "die"),
    *("call", "wait", "probe"),
)


def draw_group(seed: int) -> ServicesScenario:
    """Draw the scenario of this number."""
    chance = random.Random(f"groups of {seed}")
    drawing = Drawing(chance)
    at = 0.25
    block = Block(at + drawing.time(2.0, 20.0), chance.choice(("return", "return", "error", "cancel")))
    policy = attrs.evolve(drawing.policy(), max_lifetime=math.inf)
    group = GroupPlan(at, block, chance.choice(STRATEGIES), policy)
    members = tuple(_member(drawing, number, group) for number in range(chance.choice((2, 3, 3, 4))))
    asks = tuple(_ask(drawing, members, block) for _ in range(chance.randint(0, 6)))
    return ServicesScenario(members, asks, group=group)


def _member(drawing: Drawing, number: int, group: GroupPlan) -> ServicePlan:
    chance = drawing.chance
    when = chance.choice(("on_failure", "on_failure", "always", "never"))
    is_recycled = when != "never" and group.policy.stable_after < 30 and chance.random() < 0.15
    return attrs.evolve(
        drawing.service(),
        key=chance.choice((f"key-{number}", f"key-{number}", None)),
        replaces=False,
        policy=attrs.evolve(
            group.policy,
            when=when,
            max_lifetime=group.policy.stable_after + chance.choice((0.5, 3.0)) if is_recycled else math.inf,
        ),
    )


def _ask(drawing: Drawing, members: tuple[ServicePlan, ...], block: Block) -> Ask:
    chance = drawing.chance
    what = chance.choice(WHATS)
    service = chance.randrange(len(members))
    if what == "probe" and members[service].key is None:
        what = "die"
    return attrs.evolve(
        drawing.ask_of(members[service]), what=what, service=service, at=drawing.time(0.5, block.left_at)
    )
