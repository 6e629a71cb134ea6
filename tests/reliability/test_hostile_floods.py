"""Children that say or print too much, or hear too little (reliability, rows 21 to 23)."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import trio

from support.fork_server import wait_until
from support.reliability import (
    GRACE_SECONDS,
    LIMITS,
    RARE_FOR_TALK,
    SLACK,
    Mischief,
    Neighbourhood,
    level_fixture,
    neighbourhood,
    suffer_all,
    told_of,
)

level = level_fixture(RARE_FOR_TALK)

SERIES = 3
ROUNDS = 3
SLOW_ROUNDS = 5

ECHOES = 25
"""How often each neighbour answers in a round: two hundred answers in all, of which the slowest two are over p99."""

SLICE_SECONDS = 0.005
"""How long a process may wait for a processor that another one uses: no doing of anybody's here. Two cores are few for
a host, a flood and the neighbour that is to answer."""

# ---- messages


async def test_a_flood_that_nobody_listens_to_is_dropped_and_counted(level: str, tmp_path: Path) -> None:
    """Row 21. The neighbours' worker listens to everybody; the one that floods has a worker of its own."""
    async with neighbourhood(level, tmp_path) as place, place.quiet_worker() as worker:
        for entry in ("floods", "floods_async"):
            with told_of(entry):
                handle = await worker.backend_processes.spawn(f"hostile/{entry}.py", heartbeat_timeout=5)
                dropped = 10 * LIMITS.inbox_messages
                await wait_until(lambda: handle.statistics().messages_dropped > dropped)  # noqa: B023  # used at once
                await place.all_answer()
                held = handle.statistics()
                assert held.inbox_messages <= LIMITS.inbox_messages
                assert held.inbox_bytes <= LIMITS.inbox_bytes
                await handle.stop()
                assert handle.state == "stopped"
                await place.all_answer()


@pytest.mark.quick(1)
@pytest.mark.parametrize("entry", ["floods", "floods_async"])
async def test_a_flood_that_somebody_is_slow_to_read_is_held_up_without_loss(
    level: str, tmp_path: Path, entry: str
) -> None:
    """Row 21. Time in which its host does not read does not count against it."""
    async with neighbourhood(level, tmp_path) as place, place.quiet_worker() as worker:
        handle = await worker.backend_processes.spawn(f"hostile/{entry}.py", heartbeat_timeout=0.5)
        with trio.fail_after(20):
            async with handle.messages() as messages:
                await wait_until(lambda: handle.statistics().inbox_messages >= LIMITS.inbox_messages)
                received = handle.statistics().messages_received
                began_at = trio.current_time()
                while trio.current_time() - began_at < 0.8:  # longer than its watchdog's patience
                    await place.all_answer()
                assert handle.statistics().messages_received == received
                assert handle.statistics().messages_dropped == 0
                assert handle.state == "running"
                for _ in range(2 * LIMITS.inbox_messages):
                    await messages.receive()
        await handle.stop()
        assert handle.state == "stopped"


@pytest.mark.slow
async def test_a_flood_during_the_stop_is_taken_in_up_to_its_bound(level: str, tmp_path: Path) -> None:
    """The end waits for no reader, and so it has a bound of its own."""
    await suffer_all(
        level,
        tmp_path,
        [
            Mischief(
                "floods",
                "when it is asked to stop",
                ends="stopped",
                error="broke the protocol: more than 1048576 bytes of messages sent while it was ending",
                is_asked=True,
            )
        ],
    )


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("entry", "is_listened_to", "rounds"),
    [("floods", False, ROUNDS), ("floods", False, SLOW_ROUNDS), ("floods_async", True, SLOW_ROUNDS)],
    ids=["nobody listens", "nobody listens for long", "somebody is slow to listen"],
)
async def test_a_flood_at_most_doubles_the_time_in_which_others_are_answered(
    level: str, tmp_path: Path, entry: str, is_listened_to: bool, rounds: int
) -> None:
    """Row 21. Held against a process that is as busy and says nothing, by turns, since other programs come and go.

    What they add is never less than nothing, so of a few such series one within the bound is enough.
    """
    seen: list[tuple[list[float], list[float]]] = []
    async with neighbourhood(level, tmp_path) as place, place.quiet_worker() as worker:
        for _ in range(SERIES):
            quiet: list[float] = []
            flooded: list[float] = []
            for _ in range(rounds):
                handle = await worker.backend_processes.spawn("hostile/loops.py")
                quiet.append(await slow_answer(place))
                place.kill(handle)
                await handle.wait_ended()
                handle = await worker.backend_processes.spawn(f"hostile/{entry}.py")
                if is_listened_to:
                    handle.messages()
                flooded.append(await slow_answer(place))
                assert handle.statistics().messages_received >= LIMITS.inbox_messages
                await handle.stop()
            if statistics.median(flooded) <= 2 * max(statistics.median(quiet), SLICE_SECONDS):
                return
            seen.append((quiet, flooded))
    pytest.fail(f"in none of {SERIES} series: {seen}")


async def slow_answer(place: Neighbourhood) -> float:
    """Return the 99th percentile of a neighbour's response times, in seconds."""
    times: list[float] = []
    for _ in range(ECHOES):
        for handle in place.neighbours:
            began_at = trio.current_time()
            await place.answer(handle)
            times.append(trio.current_time() - began_at)
    return statistics.quantiles(times, n=100)[-1]


async def test_who_sends_to_what_never_reads_waits_and_can_be_cancelled(level: str, tmp_path: Path) -> None:
    """Row 22."""
    async with neighbourhood(level, tmp_path) as place:
        for entry in ("never_reads", "never_reads_async"):
            with told_of(entry):
                handle = await place.spawn(f"hostile/{entry}", heartbeat_timeout=5)
                payload = "x" * 10_000
                with pytest.raises(trio.WouldBlock), trio.fail_after(20):
                    while True:
                        handle.send_nowait(payload)
                        await trio.lowlevel.checkpoint()
                assert handle.statistics().outbox_bytes <= LIMITS.outbox_bytes
                with trio.move_on_after(0.2) as scope:
                    await handle.send("y" * (LIMITS.outbox_bytes // 2))
                assert scope.cancelled_caught
                await place.all_answer()
                assert handle.statistics().outbox_bytes <= LIMITS.outbox_bytes
                await handle.stop()
                assert (handle.state, handle.info.error) == ("stopped", None)
                assert place.fate(handle).seconds(since="stopping") < GRACE_SECONDS
                await place.all_answer()


# ---- output

KEPT_BYTES = 64 * 1024
"""How many bytes of each stream are kept."""


async def test_what_is_printed_before_ready_holds_nothing_up(level: str, tmp_path: Path) -> None:
    """Row 23: 300 kB on each stream are more than a pipe holds."""
    async with neighbourhood(level, tmp_path) as place:
        handle = await place.spawn("hostile/prints", payload="before it is ready")
        await handle.wait_ended()
        assert (handle.state, handle.result) == ("completed", "fine")
        assert handle.statistics().output_dropped == 2 * (300_000 - KEPT_BYTES)
        await place.all_answer()


async def test_the_end_of_a_flood_of_output_tells_the_reason_of_the_end(level: str, tmp_path: Path) -> None:
    async with neighbourhood(level, tmp_path) as place:
        handle = await place.spawn("hostile/prints", payload="and dies")
        info = await handle.wait_ended()
        assert info.state == "failed"
        beginning = "exited with code 3 without complete() or fail(); the last it wrote to stderr: …"
        assert str(info.error).startswith(beginning + "e")
        assert str(info.error).endswith("there is no disk")
        assert len(str(info.error)) <= KEPT_BYTES
        assert handle.statistics().output_dropped >= 300_000 - KEPT_BYTES
        await place.all_answer()


async def test_a_flood_of_output_that_is_no_text_holds_up_nobody(level: str, tmp_path: Path) -> None:
    """Row 23."""
    async with neighbourhood(level, tmp_path) as place:
        handle = await place.spawn("hostile/prints", heartbeat_timeout=5)
        await wait_until(lambda: handle.statistics().output_dropped > 100 * KEPT_BYTES)
        await place.all_answer()
        began_at = trio.current_time()
        await handle.stop()
        assert trio.current_time() - began_at < GRACE_SECONDS + SLACK
        assert (handle.state, handle.info.error) == ("stopped", None)
        await place.all_answer()
