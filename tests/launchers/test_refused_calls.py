"""A system, or a filter of calls, that refuses what a host needs only later: refused at opening, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.containment import run_program
from support.seccomp import ERRORS, refusing

HOST = """
    import trio
    from spindle_trio import ForkServerLauncher, open_host

    async def main():
        try:
            async with open_host(ForkServerLauncher(preload=(), spares=0)):
                print("opened")
        except RuntimeError as error:
            print(error)

    trio.run(main)
"""


@pytest.mark.quick(4)
@pytest.mark.parametrize("call", ["pidfd_open", "memfd_create", "pidfd_send_signal", "waitid"])
@pytest.mark.parametrize("error", ERRORS)
def test_a_call_that_is_refused_is_named_when_a_host_opens(tmp_path: Path, call: str, error: str) -> None:
    said = run_program(tmp_path, HOST, before=refusing(call, ERRORS[error]))
    assert said.startswith("ForkServerLauncher needs ")
    assert call in said
    assert "seccomp" in said
