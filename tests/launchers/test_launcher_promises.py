"""`check_launcher` on real processes, in real time."""

from __future__ import annotations

from spindle_trio import PythonLauncher
from spindle_trio.testing import check_launcher


async def test_the_exec_launcher_keeps_all_promises() -> None:
    await check_launcher(PythonLauncher)
