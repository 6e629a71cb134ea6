"""`check_launcher` over the launchers of JavaScript entries, on real processes in real time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spindle_trio import Containment, NodeLauncher
from spindle_trio.abc import Launcher
from spindle_trio.launchers import DefaultLauncher
from spindle_trio.testing import check_launcher


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("launcher", "entry"),
    [
        pytest.param(DefaultLauncher, "check_entry.js", id="default"),
        pytest.param(lambda: NodeLauncher(spares=0), "check_entry.js", id="node", marks=pytest.mark.slow),
        pytest.param(DefaultLauncher, "check_entry.py", id="default, for Python", marks=pytest.mark.soak),
        pytest.param(lambda: NodeLauncher(spares=2), "check_entry.js", id="node, spares", marks=pytest.mark.soak),
        pytest.param(
            lambda: NodeLauncher(containment=Containment.KILLPG),
            "check_entry.js",
            id="node, at the weakest level",
            marks=pytest.mark.soak,
        ),
    ],
)
async def test_each_launcher_keeps_all_promises(launcher: Callable[[], Launcher], entry: str) -> None:
    await check_launcher(launcher, entry=entry)
