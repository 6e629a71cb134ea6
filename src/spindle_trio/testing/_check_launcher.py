"""The contract test for launchers: what `spindle_trio.abc` promises, checked on real launches.

Each check is a function whose docstring is the promise; a failure quotes it. The checks use only `spindle_trio.abc`, so
they need no host. Everything that they launch runs the entry that `entries/check_entry.py` describes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from spindle_trio.abc import Launcher
from spindle_trio.testing._lane_checks import (
    holds_up_senders,
    keeps_order,
    leaves_lanes_readable,
    receive_keeps_trios_rules,
    refuses_long_frames,
    waits_for_readers,
)
from spindle_trio.testing._launch_bench import Bench
from spindle_trio.testing._life_checks import (
    ends_when_the_host_goes,
    exits_when_control_ends,
    keeps_processes_apart,
    kills,
    kills_what_never_yields,
    launch_can_be_cancelled,
    launches,
    leaves_nothing,
    refuses_commands_that_are_not_there,
    reports_exit_codes,
    resolve_refuses,
    shows_heartbeats,
)

ENTRIES: Final = Path(__file__).parent / "entries"
"""The folder with the entry that `check_launcher` uses for launchers of Python files."""

_GUARD_SECONDS: Final = 30.0
"""Longer than any step may take on a busy machine. In virtual time it passes at once when everything waits."""


async def check_launcher(
    make_launcher: Callable[[], Launcher], *, entry: str = "check_entry.py", root: Path = ENTRIES
) -> None:
    """Check that a launcher keeps the promises of `spindle_trio.abc`; return if it does.

    Works in real and in virtual time. With a launcher of real processes it takes some seconds, and on Linux it also
    looks at this program's children and descriptors, so nothing else should come and go meanwhile.

    Args:
        make_launcher: makes a fresh launcher. (`MemoryLauncher({"check_entry.py": check_entry})` for one.)
        entry: names the entry that does what `spindle_trio/testing/entries/check_entry.py` says.
        root: the root under which the launcher finds it, an absolute path.

    Raises:
        AssertionError: a promise is broken; says which one, and how.
    """
    launcher = make_launcher()
    # Around both, since a launcher may leave a nursery open in between; against an `aclose` that hangs.
    with trio.CancelScope() as patience:
        await launcher.start()
        try:
            bench = Bench(launcher, entry, root)
            for check in _CHECKS:
                await _carry_out(check, bench)
        finally:
            patience.shield = True
            patience.deadline = trio.current_time() + _GUARD_SECONDS
            await launcher.aclose()


async def _carry_out(check: Callable[[Bench], Awaitable[None]], bench: Bench) -> None:
    promise = " ".join((check.__doc__ or "").split())
    try:
        with trio.fail_after(_GUARD_SECONDS):
            await check(bench)
    except Exception as error:
        shown = " ".join(_leaf_texts(error))
        raise AssertionError(f"{bench.launcher!r} breaks a promise of launchers: {promise} ({shown})") from error


def _leaf_texts(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        group: BaseExceptionGroup[BaseException] = error
        return [text for inner in group.exceptions for text in _leaf_texts(inner)]
    if isinstance(error, trio.TooSlowError):
        return [f"it was not so within {_GUARD_SECONDS:g} s"]
    return [f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)]


_CHECKS: Final[tuple[Callable[[Bench], Awaitable[None]], ...]] = (
    resolve_refuses,
    refuses_commands_that_are_not_there,
    launches,
    keeps_order,
    receive_keeps_trios_rules,
    holds_up_senders,
    shows_heartbeats,
    kills,
    kills_what_never_yields,
    reports_exit_codes,
    leaves_lanes_readable,
    exits_when_control_ends,
    waits_for_readers,
    refuses_long_frames,
    keeps_processes_apart,
    ends_when_the_host_goes,
    leaves_nothing,
    launch_can_be_cancelled,
)
