"""`check_launcher` on real processes, in real time."""

from __future__ import annotations

import pytest

from spindle_trio import ForkServerLauncher, PythonLauncher
from spindle_trio.launchers import DEFAULT_PRELOAD
from spindle_trio.testing import check_launcher


@pytest.mark.slow
async def test_the_exec_launcher_keeps_all_promises() -> None:
    await check_launcher(PythonLauncher)


@pytest.mark.quick(1)
@pytest.mark.parametrize("spares", [0, 2])
@pytest.mark.parametrize("preload", [(), DEFAULT_PRELOAD])
async def test_the_fork_servers_launcher_keeps_all_promises(preload: tuple[str, ...], spares: int) -> None:
    await check_launcher(lambda: ForkServerLauncher(preload=preload, spares=spares))
