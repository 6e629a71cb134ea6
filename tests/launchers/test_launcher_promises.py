"""`check_launcher` on real processes, in real time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spindle_trio import ForkServerLauncher, PythonLauncher
from spindle_trio.abc import Launcher
from spindle_trio.testing import check_launcher

LAUNCHERS = {
    "forked, lean": lambda: ForkServerLauncher(preload=(), spares=0),
    "forked": lambda: ForkServerLauncher(spares=0),
    "forked, lean, spares": lambda: ForkServerLauncher(preload=(), spares=2),
    "forked, spares": lambda: ForkServerLauncher(spares=2),
    "exec": PythonLauncher,
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=list(LAUNCHERS))
async def test_each_launcher_keeps_all_promises(launcher: Callable[[], Launcher]) -> None:
    await check_launcher(launcher)
