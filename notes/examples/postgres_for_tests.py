"""A PostgreSQL for a test session: made in a temporary folder, ready when it says so, gone with the tests.

`postgres()` is what a fixture of the session would do; `main` stands for the tests. PostgreSQL refuses to run as the
superuser, so there the programs are run by another user.

Run it, where PostgreSQL is installed: python notes/examples/postgres_for_tests.py
"""

from __future__ import annotations

import math
import os
import pwd
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

import spindle_trio as spindle
from spindle_trio import Command

USER = "nobody"


def program(name: str) -> str:
    """Find a program of PostgreSQL, which some systems do not have on the PATH."""
    found = shutil.which(name) or max(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), default=None)
    if found is None:
        sys.exit(f"there is no {name}: install PostgreSQL")
    return str(found)


def as_user(*argv: str) -> list[str]:
    """Have a program run as another user than the superuser."""
    return ["setpriv", f"--reuid={USER}", "--clear-groups", *argv] if os.geteuid() == 0 else list(argv)


@asynccontextmanager
async def postgres(processes: spindle.BackendProcesses) -> AsyncIterator[str]:
    """Run a server for as long as the block lasts, and yield the folder of its socket."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam(USER).pw_uid, -1)
        data = f"{folder}/data"
        made = await processes.spawn(Command(as_user(program("initdb"), "--auth=trust", "--no-sync", "-U", "me", data)))
        info = await made.wait_ended()
        if info.state != "completed":
            raise RuntimeError(f"no database could be made: {info.error}")
        server = Command(
            as_user(program("postgres"), "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"),
            ready=spindle.Line("ready to accept connections"),
            stop_signal=signal.SIGINT,
        )
        async with processes.open(server, startup_timeout=30, heartbeat_timeout=math.inf):
            yield folder


async def main() -> None:
    """Ask a server of our own a question."""
    async with spindle.open_host() as host, host.open_worker("tests", user_id="ada") as worker:
        async with postgres(worker.backend_processes) as folder:
            question = Command(
                [program("psql"), "-h", folder, "-U", "me", "-Atc", "select 6 * 7", "postgres"], lane="lines"
            )
            async with worker.backend_processes.open(question) as psql:
                print("the database says", [line async for line in psql.messages()])
        print("and is gone:", not Path(folder).exists())


if __name__ == "__main__":
    trio.run(main)
