"""Shared by the tests of backends in JavaScript: a program over the worker protocol, and a real host beyond it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import trio

from spindle_trio import DefaultLauncher, StreamChannel, open_host
from spindle_trio.javascript import WORKER
from support.bare_runtime import both_programs

__all__ = ["GUARD_SECONDS", "both_programs", "root", "shown_by"]

GUARD_SECONDS = 40

ENTRIES = {
    "echo.py": """
        async def run(process):
            process.on_message(process.send_nowait)
            process.send_nowait({"user": process.user_id, "payload": process.payload})
            process.ready()
    """,
    "echo.mjs": """
        export default (process) => {
          process.onMessage((payload) => process.send(payload === "rich" ? rich() : payload));
          process.onStop(({ reason }) => process.complete({ ...rich(), reason }));
          process.ready();
        };
        const rich = () => ({ at: new Date(0), files: [Buffer.from([0, 255])], plain: { "$set": 1 } });
    """,
    "early.py": "def run(process): return 'early'",
}

HEAD = """
import net from "node:net";
import { connectWorker, BackendProcessError, ConnectionLostError } from "spindle-trio/worker.mjs";

const spindle = connectWorker(net.connect("host.sock"));
const { backendProcesses } = spindle;
const said = [];
const events = [];
backendProcesses.onLifecycle((event) => events.push(event));
const states = () => events.map(({ state }) => state);
const until = async (condition) => { while (!condition()) await new Promise((go) => setTimeout(go, 1)); };
const refusal = async (ask) => { try { return await ask(); } catch (error) { return { ...error, ...about(error) }; } };
const about = ({ name, message }) => ({ name, message });
"""


TAIL = """
spindle.close();
await spindle.closed;
console.log(JSON.stringify(said));
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with entries, and with the package as a program would have it installed."""
    for name, source in ENTRIES.items():
        (tmp_path / name).write_text(textwrap.dedent(source))
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "spindle-trio").symlink_to(WORKER.parent)
    return tmp_path


async def shown_by(program: str, root: Path, statements: str, **options: Any) -> Any:
    """Run the backend of an extension, and return what its statements have said."""
    source = "\n".join([HEAD, textwrap.dedent(statements), TAIL])
    (root / "backend.mjs").write_text(source, encoding="utf-8")
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(root / "host.sock"))
    listening.listen()
    with trio.fail_after(GUARD_SECONDS), listening:
        async with open_host(DefaultLauncher(preload=()), **options) as host, trio.open_nursery() as nursery:

            async def serve() -> None:
                accepted, _ = await listening.accept()
                await host.serve_worker(StreamChannel(trio.SocketStream(accepted)), "remote", root=root, user_id="ada")

            nursery.start_soon(serve)
            done = await trio.run_process(
                [program, "backend.mjs"], cwd=root, capture_stdout=True, capture_stderr=True, check=False
            )
            assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout), done.stderr.decode()
