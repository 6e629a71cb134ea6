"""A program's output ends with the program, whoever still holds its pipe."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from spindle_trio.program._output import ProgramOutput

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_what_was_written_before_the_end_is_the_last() -> None:
    here, there = os.pipe()
    async with ProgramOutput(here) as output:
        os.write(there, b"before")
        output.end()
        os.write(there, b"after")
        assert await output.receive_some(4) == b"befo"
        assert await output.receive_some() == b"re"
        assert await output.receive_some() == b""
        assert await output.receive_some() == b""
    os.close(there)


async def test_who_waits_for_output_hears_of_the_end() -> None:
    here, there = os.pipe()
    received = []

    async def receive() -> None:
        received.append(await output.receive_some())

    async with ProgramOutput(here) as output, trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        output.end()
    assert received == [b""]
    os.close(there)


async def test_a_closed_pipe_is_the_end_too_and_a_closed_output_says_so() -> None:
    here, there = os.pipe()
    output = ProgramOutput(here)
    os.close(there)
    assert await output.receive_some() == b""
    output.end()
    assert await output.receive_some() == b""
    await output.aclose()
    await output.aclose()


async def test_closing_an_output_wakes_who_reads_it() -> None:
    here, there = os.pipe()
    output = ProgramOutput(here)
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await output.receive_some()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await output.aclose()
    os.close(there)
