"""`check_launcher` over the launchers of JavaScript entries, on real processes in real time."""

from __future__ import annotations

import pytest

from spindle_trio import Containment, NodeLauncher
from spindle_trio.launchers import DefaultLauncher
from spindle_trio.testing import check_launcher


@pytest.mark.slow
@pytest.mark.parametrize("spares", [0, pytest.param(2, marks=pytest.mark.soak)])
async def test_the_launcher_of_node_keeps_all_promises(spares: int) -> None:
    await check_launcher(lambda: NodeLauncher(spares=spares), entry="check_entry.js")


@pytest.mark.soak
async def test_the_launcher_of_node_keeps_all_promises_at_the_weakest_level() -> None:
    await check_launcher(lambda: NodeLauncher(containment=Containment.KILLPG), entry="check_entry.js")


@pytest.mark.parametrize("entry", ["check_entry.js", pytest.param("check_entry.py", marks=pytest.mark.soak)])
async def test_the_default_launcher_keeps_all_promises_to_both_kinds_of_entry(entry: str) -> None:
    await check_launcher(DefaultLauncher, entry=entry)
