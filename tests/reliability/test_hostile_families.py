"""Nothing that hostile children start is left at their end (reliability, rows 14 to 16).

What has left both its session and its parents can be found at the stronger levels of containment alone, and so can the
own-session descendants of a process that ends by itself, without its host's doing.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from support.fork_server import children_of, wait_until
from support.leftovers import describe
from support.reliability import (
    HEARTBEAT_SECONDS,
    KILLED,
    LEVELS,
    PROMPT,
    STRONG_LEVELS,
    TREE_LEVELS,
    Mischief,
    at_deadline,
    neighbourhood,
    server_of,
    skip_unless_at,
    suffer_all,
    told_of,
)

KINDRED = ["group", "session"]
"""Whom a walk from parent to child finds, as long as the parent is there."""

DAEMONS = ["daemon", "traceless daemon"]

ENDS = {
    "hangs": ("timed_out", "no heartbeat for 0.5 s"),
    "returns": ("completed", ""),
    "fails": ("failed", r"RuntimeError: with a family \(.*\)"),
    "exits": ("failed", r"exited with code 3 without complete\(\) or fail\(\)"),
    "dies": ("failed", rf"{KILLED} without complete\(\) or fail\(\)"),
}
"""How a process can end that has started others: the state, and a pattern of the error."""

WITHOUT_A_WORD = {"exits", "dies"}
"""Those of them in which the host plays no part."""


def family(lives: list[str], end: str, *, entry: str = "starts_others", levels: frozenset[str]) -> Mischief:
    """Describe a process that starts others, and then ends."""
    state, error = ENDS[end]
    return Mischief(
        entry,
        {"lives": lives, "end": end},
        ends=state,
        error=error,
        within=at_deadline(HEARTBEAT_SECONDS) if end == "hangs" else PROMPT,
        result="fine" if state == "completed" else None,
        heartbeat_timeout=HEARTBEAT_SECONDS if end == "hangs" else 60,
        levels=levels,
    )


async def test_children_in_the_group_and_in_sessions_of_their_own_are_gone(
    level: str, tmp_path: Path, at_once: int
) -> None:
    """Row 14, wherever the host has a part in the end."""
    ends = [end for end in ENDS if end not in WITHOUT_A_WORD]
    await suffer_all(
        level,
        tmp_path,
        [
            *(family(KINDRED * 2, end, levels=frozenset(LEVELS)) for end in ends),
            *(family(KINDRED, end, entry="starts_others_async", levels=frozenset(LEVELS)) for end in ends),
            *(family(["group"] * 3, end, levels=frozenset(LEVELS)) for end in WITHOUT_A_WORD),
            family(["group"], "exits", entry="starts_others_async", levels=frozenset(LEVELS)),
        ],
        at_once,
    )


async def test_a_stop_takes_the_family_along(level: str, tmp_path: Path) -> None:
    payload = {"lives": KINDRED, "end": "waits"}
    await suffer_all(level, tmp_path, [Mischief("starts_others", payload, ends="stopped", is_asked=True)])


async def test_children_with_sessions_of_their_own_are_gone_also_after_an_end_without_a_word(
    level: str, tmp_path: Path, at_once: int
) -> None:
    skip_unless_at(level, STRONG_LEVELS, "that own-session children of a process that dies by itself are gone")
    await suffer_all(
        level,
        tmp_path,
        [
            *(family(KINDRED, end, levels=STRONG_LEVELS) for end in WITHOUT_A_WORD),
            family(KINDRED, "exits", entry="starts_others_async", levels=STRONG_LEVELS),
        ],
        at_once,
    )


async def test_daemons_are_gone(level: str, tmp_path: Path, at_once: int) -> None:
    """Rows 14 and 16."""
    skip_unless_at(level, STRONG_LEVELS, "that what has left its session and its parents is gone")
    await suffer_all(
        level,
        tmp_path,
        [
            *(family(DAEMONS + KINDRED, end, levels=STRONG_LEVELS) for end in ENDS),
            *(family(DAEMONS, end, entry="starts_others_async", levels=STRONG_LEVELS) for end in ("returns", "exits")),
        ],
        at_once,
    )


BOMB_MOST = 150


@pytest.mark.parametrize("leaves", [False, True], ids=["in its group", "in sessions of their own"])
async def test_a_fork_bomb_is_gone_with_its_process(level: str, tmp_path: Path, leaves: bool) -> None:
    """Row 15. The bomb bounds itself, so that the test does no harm if nothing else does."""
    if leaves:
        skip_unless_at(level, STRONG_LEVELS, "that a fork bomb is gone whose members leave their group")
    async with neighbourhood(level, tmp_path) as place:
        for end in ("by the host", "by itself"):
            with told_of(end):
                before = place.marked()
                handle = await place.spawn("hostile/forks_for_ever", payload={"most": BOMB_MOST, "leaves": leaves})
                fate = place.fate(handle)
                await wait_until(lambda: {"started": BOMB_MOST} in fate.payloads)  # noqa: B023  # used at once
                await place.all_answer()
                if end == "by the host":
                    await handle.stop()
                else:
                    place.kill(handle)
                await handle.wait_ended()
                if level in TREE_LEVELS:
                    assert [describe(pid) for pid in place.marked() - before] == []
                await place.gone(fate, before)
                assert fate.states[-1] == ("stopped" if end == "by the host" else "failed")
                await place.all_answer()


async def test_who_goes_on_talking_on_the_lanes_of_a_process_that_has_ended_holds_up_nobody(
    level: str, tmp_path: Path, at_once: int
) -> None:
    """The host takes in a process's messages from before its end, and nothing that others send afterwards.

    So the end is the process's own. It is not told as a breach of the protocol, which it would be if the flood counted.
    """
    state, exits = ENDS["exits"]
    await suffer_all(
        level,
        tmp_path,
        [Mischief("floods_from_the_grave", lane, ends=state, error=exits) for lane in ("control", "messages")],
        at_once,
    )


async def test_a_process_that_a_daemon_traces_ends_all_the_same_and_is_reaped_when_it_can_be(
    level: str, tmp_path: Path
) -> None:
    """The system tells the tracer of the end, and the parent only once the tracer has taken note of it or is gone."""
    async with neighbourhood(level, tmp_path) as place:
        before = place.marked()
        handle = await place.spawn("hostile/is_traced")
        await handle.wait_ended()
        fate = place.fate(handle)
        tracer = fate.payloads[0]
        if tracer == 0:
            pytest.skip("this system lets nobody trace a process that is no child of its own")
        assert fate.states == ["starting", "running", "failed"]
        fate.assert_lived("running", PROMPT)
        server = server_of(place.launcher)
        assert server is not None
        used, began_at = processor_seconds(server), trio.current_time()
        while trio.current_time() - began_at < 0.5:
            await place.all_answer()
        assert processor_seconds(server) - used < 0.1, "the server turns in circles"
        if level not in STRONG_LEVELS:
            os.kill(tracer, signal.SIGKILL)
        await place.gone(fate, before)
        await wait_until(lambda: handle.pid not in children_of(server))


def processor_seconds(pid: int) -> float:
    """Return how much processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
