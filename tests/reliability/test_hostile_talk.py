"""Children that say what nobody may say, while others go on undisturbed (reliability, rows 18 to 20 and 24)."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from support.leftovers import open_descriptors
from support.reliability import (
    CONTROL_PATIENCE,
    FRAME_SECONDS,
    GRACE_SECONDS,
    HEARTBEAT_SECONDS,
    RARE_FOR_TALK,
    SLACK,
    Mischief,
    at_deadline,
    level_fixture,
    neighbourhood,
    suffer_all,
)

level = level_fixture(RARE_FOR_TALK)

NOT_SAFE = "a frame that is not JSON-safe: .+"

BAD_BODIES = [
    "{",
    '{"type":"ready"',
    '"hello" "again"',
    "[1,]",
    "'hello'",
    "NaN",
    '{"a":Infinity}',
    "-Infinity",
    "1e400",
    "18446744073709551616",
    "-9223372036854775809",
    '"\\ud800"',
    '{"\\udc00":1}',
]
"""Bodies that no lane carries."""

BAD_NAMES = {
    "a number of 100 000 digits": NOT_SAFE,
    "a depth of 100 000": NOT_SAFE,
    "a depth of 100 000 objects": NOT_SAFE,
    "a depth that never ends": NOT_SAFE,
    "300 000 values": r"a frame with more than \d+ values",
    "bytes that are no text": NOT_SAFE,
    "a zero byte": NOT_SAFE,
    "an encoded surrogate": NOT_SAFE,
    "nothing": NOT_SAFE,
}
"""More bodies that no lane carries, too long or no text (see `lies.BODIES`), with the reason given."""

BAD_FRAMES = {
    '"hello"': "a control frame that is a str, not an object",
    "[]": "a control frame that is a list, not an object",
    "{}": "a control frame of unknown type 'None'",
    '{"type":"init"}': "a control frame of unknown type 'init'",
    '{"type":["ready"]}': r"a control frame of unknown type .*",
    '{"type":"complete"}': "a frame of type complete whose count of messages is missing or wrong",
    '{"type":"complete","messages":-1}': "a frame of type complete whose count of messages is missing or wrong",
    '{"type":"complete","messages":true}': "a frame of type complete whose count of messages is missing or wrong",
    '{"type":"fail","messages":0}': "a fail frame whose error is not a string",
    '{"type":"exiting","messages":0,"code":"0"}': "an exiting frame whose code is not an integer from 0 to 255",
}
"""Good JSON that is no frame for the control lane."""


def lies(lane: str, error: str, entry: str = "lies", **order: object) -> Mischief:
    """Describe what ends because of what it has said."""
    return Mischief(entry, {"lane": lane} | order, error=f"broke the protocol: {error}")


async def test_what_is_no_frame_ends_whoever_says_it(level: str, tmp_path: Path, at_once: int) -> None:
    """Row 19. Messages are read alike, whichever kind of entry sends them: where time matters, the kinds take turns."""
    mischiefs = []
    for lane, entry in (("control", "lies"), ("messages", "lies"), ("messages", "lies_async")):
        of_entry = [lies(lane, NOT_SAFE, entry, body=body) for body in BAD_BODIES]
        of_entry += [lies(lane, error, entry, named=name) for name, error in BAD_NAMES.items()]
        if at_once > 1 and lane == "messages":
            of_entry = of_entry[entry == "lies_async" :: 2]
        mischiefs += of_entry
    mischiefs += [lies("control", error, body=body) for body, error in BAD_FRAMES.items()]
    await suffer_all(level, tmp_path, mischiefs, at_once)


async def test_a_frame_out_of_order_ends_whoever_says_it(level: str, tmp_path: Path, at_once: int) -> None:
    """Row 19."""
    await suffer_all(
        level,
        tmp_path,
        [
            Mischief(
                "lies",
                {"lane": "control", "body": '{"type":"stopped","messages":0}'},
                error="broke the protocol: it said stopped without being asked to",
            ),
            Mischief(
                "lies",
                {"lane": "control", "body": '{"type":"exiting","messages":0,"code":5}'},
                error=r"exited with code 5 without complete\(\) or fail\(\)",
            ),
            Mischief(
                "lies",
                {"lane": "control", "body": '{"type":"complete","messages":3,"result":1}'},
                ends="completed",
                result=1,
                error="3 of its messages never arrived",
                within=at_deadline(GRACE_SECONDS),
            ),
        ],
        at_once,
    )


async def test_a_broken_frame_ends_whoever_sends_it(level: str, tmp_path: Path, at_once: int) -> None:
    """Rows 18 and 20."""
    too_long = "broke the protocol: a frame of .* bytes.*"
    not_whole = "broke the protocol: a frame was incomplete 0.5 s after it had begun"
    mischiefs = []
    for lane in ("control", "messages"):
        mischiefs += [
            Mischief("breaks_frames", {"lane": lane, "how": how}, error=too_long)
            for how in ("announces four gigabytes", "announces a byte too many")
        ]
        mischiefs += [
            Mischief("breaks_frames", {"lane": lane, "how": how}, error=not_whole, within=at_deadline(FRAME_SECONDS))
            for how in ("stops in the header", "stops in the body", "sends a byte at a time")
        ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await suffer_all(level, tmp_path, mischiefs, at_once)
    # Kibibytes: nobody has believed the four gigabytes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.slow
async def test_who_closes_its_lanes_is_ended(level: str, tmp_path: Path, at_once: int) -> None:
    closes = [
        Mischief(
            "breaks_frames",
            {"lane": "control", "how": how},
            error="closed its control lane and lived on",
            within=at_deadline(CONTROL_PATIENCE),
        )
        for how in ("closes every descriptor", "closes its lanes")
    ]
    await suffer_all(level, tmp_path, closes, at_once)


async def test_rubbish_in_the_page_of_heartbeats_counts_as_one_heartbeat_at_most(level: str, tmp_path: Path) -> None:
    """A time in the future counts as the moment when it is first seen. The watchdog looks when it is due."""
    await suffer_all(
        level,
        tmp_path,
        [
            Mischief(
                "writes_into_the_page",
                ends="timed_out",
                error="no heartbeat for 0.5 s",
                within=(HEARTBEAT_SECONDS - 0.01, 2 * HEARTBEAT_SECONDS + SLACK),
                heartbeat_timeout=HEARTBEAT_SECONDS,
            )
        ],
    )


async def test_descriptors_that_are_thrown_at_the_host_do_not_enter_it(level: str, tmp_path: Path) -> None:
    """Row 24."""
    async with neighbourhood(level, tmp_path) as place:
        before = open_descriptors()
        most = 0

        def count(_: object) -> None:
            nonlocal most
            most = max(most, len(open_descriptors()))

        place.worker.backend_processes.on_message(count)
        (fate,) = await place.suffer(Mischief("throws_descriptors", ends="completed", result="fine"))
        assert fate.payloads == ["caught"] * 20
        assert open_descriptors() == before
        # Those of the one process that has thrown them, while it was alive.
        assert most <= len(before) + 12
