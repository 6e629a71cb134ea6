"""Frames that the system takes in part, since the host is behind: an entry that does not yield meanwhile is no liar."""

from __future__ import annotations

import select

import pytest
import trio

from spindle_trio import Limits
from support.javascript import Stage, body, outcome

HEAD = "import fs from 'node:fs';"

GO = "await new Promise((go) => p.onMessage(go) && p.ready());"

COMPUTE = "for (const end = Date.now() + 1500; Date.now() < end;);"

LIMITS = Limits(inbox_messages=1, frame_seconds=0.3)

TEXT = "x" * 900_000


@pytest.mark.slow
async def test_an_entry_may_compute_although_its_last_message_has_left_in_part(stage: Stage) -> None:
    """Nobody reads its messages for so long that it begins to compute, for longer than a frame may take."""
    async with stage.host(limits=LIMITS):
        handle = await stage.spawn(
            body(
                f"""
                {GO}
                for (let number = 0; number < 4; number += 1) p.send("x".repeat({len(TEXT)}));
                fs.writeFileSync("sent", "");
                {COMPUTE}
                p.complete("computed");
                """,
                head=HEAD,
            )
        )
        messages = handle.messages()
        await handle.send("go")
        while not (stage.root / "sent").exists():
            await trio.sleep(0.01)
        assert [payload async for payload in messages] == [TEXT] * 4
        assert (*await outcome(handle), handle.result) == ("completed", None, "computed")


@pytest.mark.quick(1)
@pytest.mark.parametrize("number", [0, 20])
async def test_a_long_result_arrives_whole_at_a_host_that_was_late(stage: Stage, number: int) -> None:
    """The result goes first: the host reads all messages from then on."""
    async with stage.host(limits=LIMITS):
        handle = await stage.spawn(
            body(
                f"""
                {GO}
                for (let number = 0; number < {number}; number += 1) p.send("x".repeat({len(TEXT)}));
                fs.writeFileSync("sent", "");
                p.complete("x".repeat({len(TEXT)}));
                {COMPUTE}
                """,
                head=HEAD,
            )
        )
        messages = handle.messages()
        await handle.send("go")
        while not (stage.root / "sent").exists():  # the host stands still from here on
            select.select([], [], [], 0.01)
        select.select([], [], [], 0.5)
        assert (*await outcome(handle), handle.result) == ("completed", None, TEXT)
        assert [payload async for payload in messages] == [TEXT] * number
