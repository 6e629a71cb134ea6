"""Asking a real process for its stacks, without a host: when that makes sense, and what has become of the rest."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from spindle_trio._linux._shared_page import DUMP_SIGNAL
from spindle_trio.abc import ExitStatus
from spindle_trio.launchers._local import _heartbeat_page
from spindle_trio.launchers._local._tree import is_stopped

if TYPE_CHECKING:
    from conftest import Launch

SPINS = "def run(process):\n    process.ready()\n    while True: pass"
DEAF = (
    "import signal\ndef run(process):\n    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 7])\n"
    "    process.ready()\n    while True: pass"
)


async def test_a_process_ends_by_its_dump_and_says_so(launch: Launch) -> None:
    async with launch(SPINS) as child:
        await child.frame_of_type("ready")
        assert child.process.stacks() is None
        assert child.process.request_dump() is True
        assert child.process.request_dump() is False  # one is enough
        assert await child.process.wait() == ExitStatus(signal=DUMP_SIGNAL)
        assert " in run" in str(child.process.stacks())
        assert child.process.remark() is None
        assert child.process.request_dump() is False
    assert child.process.stacks() is None  # the page is closed


async def test_a_process_that_does_not_hear_it_can_be_killed(launch: Launch) -> None:
    async with launch(DEAF) as child:
        await child.frame_of_type("ready")
        assert child.process.request_dump() is True
        child.process.kill()
        assert child.process.request_dump() is False
        assert await child.process.wait() == ExitStatus(signal=signal.SIGKILL)
        assert child.process.stacks() is None


async def test_a_process_that_was_killed_or_has_ended_is_not_asked(launch: Launch) -> None:
    async with launch(SPINS) as child:
        child.process.kill()
        assert child.process.request_dump() is False
        await child.process.wait()
        assert child.process.request_dump() is False


async def test_a_process_that_was_stopped_goes_on_for_its_dump(launch: Launch) -> None:
    async with launch("import os\ndef run(process):\n    process.ready()\n    os.kill(os.getpid(), 19)") as child:
        await child.frame_of_type("ready")
        with trio.fail_after(5):
            while not is_stopped(child.process.pid):
                await trio.sleep(0.001)
        assert child.process.request_dump() is True
        assert await child.process.wait() == ExitStatus(signal=DUMP_SIGNAL)
        assert child.process.remark() == "it was stopped by a signal"


@pytest.mark.parametrize("is_deaf", [False, True])
async def test_leaving_the_block_during_a_dump_leaves_nothing(launch: Launch, is_deaf: bool) -> None:
    async with launch(DEAF if is_deaf else SPINS) as child:
        await child.frame_of_type("ready")
        assert child.process.request_dump() is True
    assert child.process.has_exited()


HERE = f"{Path(_heartbeat_page.__file__).parents[1]}/child/_program.py"


def stack(*files: str) -> list[str]:
    return [f'  File "{file}", line 7 in f' for file in files]


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        (["a.py", "b.py", HERE, HERE], ["a.py", "b.py"]),
        ([HERE, "a.py", HERE, "b.py", HERE], [HERE, "a.py", HERE, "b.py"]),
        ([HERE, HERE], [HERE, HERE]),
        (["a.py"], ["a.py"]),
        ([], []),
    ],
)
def test_the_runtimes_frames_are_left_out_where_a_stack_begins(files: list[str], shown: list[str]) -> None:
    """If it hangs in a call on its context, the dump shows that; a stack of nothing else stays as it is."""
    heads = ["Thread 1 (most recent call first):", *stack(*files), "", "Current thread 2 (most recent call first):"]
    expected = ["Thread 1 (most recent call first):", *stack(*shown), "", "Current thread 2 (most recent call first):"]
    assert _heartbeat_page.without_runtime("\n".join([*heads, *stack(*files)])) == "\n".join(
        [*expected, *stack(*shown)]
    )
    fatal = ["Fatal Python error: Aborted", "", *heads[:1], *stack(*files), "", "Extension modules: a, b (total: 2)"]
    told = ["Fatal Python error: Aborted", "", *heads[:1], *stack(*shown), "", "Extension modules: a, b (total: 2)"]
    assert _heartbeat_page.without_runtime("\n".join(fatal)) == "\n".join(told)
