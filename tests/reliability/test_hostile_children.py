"""Children that hang, die or make a mess, while others go on undisturbed (reliability, rows 10 to 13, 17 and 23)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from spindle_trio import StartupFailedError, StartupTimeoutError
from support.reliability import (
    CONTROL_PATIENCE,
    GRACE_SECONDS,
    HEARTBEAT_SECONDS,
    KILLED,
    STARTUP_SECONDS,
    Fate,
    Mischief,
    Neighbourhood,
    at_deadline,
    neighbourhood,
    suffer_all,
    told_of,
)

STOPPED = "it was stopped by a signal"
"""The error of a process that was found so."""


def hangs(entry: str, payload: object = None, error: str = "no heartbeat for 0.5 s") -> Mischief:
    """Describe what is killed by the watchdog."""
    return Mischief(
        entry,
        payload,
        ends="timed_out",
        error=error,
        within=at_deadline(HEARTBEAT_SECONDS),
        heartbeat_timeout=HEARTBEAT_SECONDS,
    )


async def test_what_hangs_is_killed_by_the_watchdog(level: str, tmp_path: Path, at_once: int) -> None:
    """Rows 11 and 13."""
    await suffer_all(
        level,
        tmp_path,
        [
            hangs("loops"),
            hangs("loops_async"),
            hangs("loops_in_c"),
            hangs("loops_in_c_async"),
            hangs("stops_itself", error=f"no heartbeat for 0.5 s; {STOPPED}"),
            hangs("stops_itself_async", error=f"no heartbeat for 0.5 s; {STOPPED}"),
            hangs("deadlocks"),
        ],
        at_once,
    )


@pytest.mark.slow
async def test_what_resists_is_killed_like_anything_else(level: str, tmp_path: Path, at_once: int) -> None:
    await suffer_all(
        level,
        tmp_path,
        [
            hangs("resists", "blocks and ignores all signals"),
            hangs("resists", "clears its parent-death signal"),
            hangs("resists", "cannot be dumped"),
            hangs("resists", "is traced by its parent"),
            hangs("resists", "has the lowest priority"),
            hangs("resists", "may use no memory"),
            hangs("resists", "may start no process"),
            hangs("resists", "takes on another user"),
            Mischief(
                "resists",
                "is another program",
                error="closed its control lane and lived on",
                within=at_deadline(CONTROL_PATIENCE),
            ),
        ],
        at_once,
    )


async def test_what_is_never_ready_is_killed_at_the_startup_deadline(level: str, tmp_path: Path) -> None:
    """Row 10. Whether it talks meanwhile, or prints, makes no difference."""
    fates: list[Fate] = []

    async def start(place: Neighbourhood, how: str) -> None:
        with told_of(how):
            with pytest.raises(StartupTimeoutError) as caught:
                await place.spawn("hostile/never_ready", payload=how, startup_timeout=STARTUP_SECONDS)
            fate = place.fates[caught.value.info.process_id]
            assert fate.states == ["starting", "timed_out"]
            assert caught.value.info.error == "not ready within 0.5 s" + (f"; {STOPPED}" if how == "is stopped" else "")
            fate.assert_lived("starting", at_deadline(STARTUP_SECONDS))
            fates.append(fate)

    async with neighbourhood(level, tmp_path) as place:
        before = place.marked()
        async with trio.open_nursery() as nursery:
            for how in ("waits", "talks", "prints", "is stopped"):
                nursery.start_soon(start, place, how)
        for fate in fates:
            await place.gone(fate, before)
        await place.all_answer()


async def test_what_ends_before_it_is_ready_is_told_with_its_last_words(level: str, tmp_path: Path) -> None:
    async with neighbourhood(level, tmp_path) as place:
        with pytest.raises(StartupFailedError) as caught:
            await place.spawn("hostile/never_ready", payload="exits")
        info = caught.value.info
        assert place.fates[info.process_id].states == ["starting", "failed"]
        assert info.error == (
            "exited with code 3 without complete() or fail(); the last it wrote to stderr: there is no disk"
        )
        await place.all_answer()


def ignores(entry: str, payload: str) -> Mischief:
    """Describe what is killed when its grace period is over."""
    return Mischief(
        entry,
        payload,
        ends="stopped",
        error="did not end within 0.5 s of the stop, and was killed",
        within=at_deadline(GRACE_SECONDS),
        is_asked=True,
    )


async def test_what_ignores_a_stop_is_killed_after_the_grace_period(level: str, tmp_path: Path, at_once: int) -> None:
    """Row 12."""
    await suffer_all(
        level,
        tmp_path,
        [
            ignores("ignores_stop", "hears and goes on"),
            ignores("ignores_stop", "never looks"),
            ignores("ignores_stop", "swallows the exit"),
            ignores("ignores_stop_async", "hears and goes on"),
            ignores("ignores_stop_async", "shields itself"),
            ignores("loops_in_c", "never looks"),
        ],
        at_once,
    )


def dies(how: object, told: str, entry: str = "dies") -> Mischief:
    """Describe an end without a word."""
    return Mischief(entry, how, error=rf"{told} without complete\(\) or fail\(\)")


async def test_each_death_is_told_for_what_it_is(level: str, tmp_path: Path, at_once: int) -> None:
    """Row 17. What the system kills for its memory looks like any other SIGKILL, and nobody claims to know better."""
    last_breath = r"exited with code 4 without complete\(\) or fail\(\); the last it wrote to stderr: there is no disk"
    await suffer_all(
        level,
        tmp_path,
        [
            dies("by a segmentation fault", "killed by SIGSEGV"),
            dies("by a segmentation fault with a core", "killed by SIGSEGV"),
            dies("by an abort", "killed by SIGABRT"),
            dies("by killing its group", KILLED),
            dies(0, "exited with code 0"),
            dies(3, "exited with code 3"),
            dies(255, "exited with code 255"),
            dies(-9, KILLED),
            dies(-15, "killed by SIGTERM"),
            dies(-7, "killed by SIGBUS"),
            dies(-64, "killed by SIGRTMAX"),
            dies(-40, r"killed by SIGRTMIN\+6"),
            dies("in a finaliser", "exited with code 6"),
            Mischief("dies", "by its last breath", error=last_breath),
            Mischief("dies", "after its final word", ends="completed", result="fine"),
            dies("by a segmentation fault", "killed by SIGSEGV", "dies_async"),
            dies("in a thread", "exited with code 5", "dies_async"),
            dies(-9, KILLED, "dies_async"),
            dies(-6, "killed by SIGABRT", "dies_async"),
        ],
        at_once,
    )


def makes_a_mess(how: str, **more: object) -> Mischief:
    """Describe what ends as if nothing had been."""
    return Mischief("misbehaves", how, **({"ends": "completed", "result": "fine"} | more))  # type: ignore[arg-type]


@pytest.mark.slow
async def test_what_spoils_its_own_surroundings_spoils_nobody_elses(level: str, tmp_path: Path) -> None:
    """One by one: they spoil the file and the folder that they all come from."""
    await suffer_all(
        level,
        tmp_path,
        [
            makes_a_mess("replaces its streams"),
            makes_a_mess("closes its streams"),
            makes_a_mess("closes its streams twice"),
            makes_a_mess("raises in a finaliser"),
            makes_a_mess("leaves for a folder that vanishes"),
            makes_a_mess("leads a session"),
            makes_a_mess("has no descriptors left"),
            makes_a_mess("is signalled while it ends"),
            makes_a_mess("has no trace of its modules left"),
            makes_a_mess("has a hostile mind"),
            makes_a_mess("has no memory left", ends="failed", result=None, error=r"MemoryError \(.*\)"),
            makes_a_mess("has a thread that never ends", within=at_deadline(GRACE_SECONDS)),
            makes_a_mess(
                "deletes its file",
                ends="failed",
                result=None,
                error=r"RuntimeError: and then something went wrong \(.*\)",
            ),
        ],
    )
