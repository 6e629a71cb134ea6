"""Runs what `tests/entries/sandboxed` tries, in a sandbox or without one, as any user.

Also a program, to run as another user or where namespaces are refused: ``python sandbox.py LEVEL LANGUAGE:PRESET…``
prints what did not come out as promised.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import trio

import spindle_trio
from spindle_trio import Sandbox

ENTRIES = Path(__file__).parents[1] / "entries/sandboxed"
PRESETS = {
    "READ_ONLY": spindle_trio.READ_ONLY,
    "WORKSPACE_WRITE": spindle_trio.WORKSPACE_WRITE,
    "OFFLINE": spindle_trio.OFFLINE,
}
LANGUAGES = {"python": "in_python.py", "shell": "in_shell.py", "node": "in_node.mjs"}
"""Entries; `"command"` is a shell that is no child of an entry."""
SYSTEM_PYTHON = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path)), None)
"""An interpreter that every sandbox can start, for what Node and a shell cannot do themselves."""

sys.path.insert(0, str(ENTRIES))
import attempts  # noqa: E402
import in_shell  # noqa: E402


@contextmanager
def prepared_place() -> Iterator[dict[str, Any]]:
    """Make what is to be kept from a sandbox, and what it may use: files, sockets and a process of the same user."""
    with ExitStack() as stack:
        place = Path(os.path.realpath(mkdtemp(prefix="sandbox-test-")))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        for folder in ("home/.ssh", "beside", "root/data"):
            (place / folder).mkdir(parents=True)
        for file in ("home/.ssh/id_ed25519", "beside/file", "beside/removable", "beside/movable", "root/data/file"):
            (place / file).write_text("kept")
        (place / "root/ready-link").symlink_to(place / "beside/file")
        for file in ENTRIES.iterdir():
            if file.is_file():
                shutil.copy(file, place / "root")
        tcp, udp, unix, abstract, datagrams = (
            stack.enter_context(socket.socket(*kind))
            for kind in (
                (socket.AF_INET, socket.SOCK_STREAM),
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_DGRAM),
            )
        )
        name = place.name
        for server, address in (
            (tcp, ("127.0.0.1", 0)),
            (udp, ("127.0.0.1", 0)),
            (unix, f"{place}/socket"),
            (abstract, f"\0{name}"),
            (datagrams, f"\0{name}-datagrams"),
        ):
            server.bind(address)
            if server.type == socket.SOCK_STREAM:
                server.listen()
        victim = stack.enter_context(subprocess.Popen(["sleep", "1000"], env={"SECRET": "kept"}))
        stack.callback(victim.kill)
        yield {
            "home": f"{place}/home",
            "beside": f"{place}/beside",
            "root": f"{place}/root",
            "unix": f"{place}/socket",
            "abstract": name,
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "victim": victim.pid,
        }


async def outcomes_of(
    at: Mapping[str, Any],
    language: str,
    sandbox: Sandbox | None,
    names: Sequence[str],
    launcher: spindle_trio.abc.Launcher,
) -> dict[str, str]:
    """Have an entry try some things, and return what came of each: ``done``, ``refused: …`` or ``broken: …``."""
    is_free = language == "python" or sandbox is None or SYSTEM_PYTHON is None
    python = sys.executable if is_free else SYSTEM_PYTHON
    with trio.fail_after(60):
        async with (
            spindle_trio.open_host(launcher) as host,
            host.open_worker("w", root=at["root"], user_id="u") as worker,
        ):
            if language == "command":
                return await _outcomes_of_command(worker, at, sandbox, names, str(python))
            handle = await worker.backend_processes.spawn(
                LANGUAGES[language],
                payload={"at": dict(at), "names": list(names), "python": python},
                sandbox=sandbox,
                heartbeat_timeout=math.inf,
            )
            ended = await handle.wait_ended()
            assert ended.state == "completed", (ended, handle.info.error)
            result = handle.result
            assert isinstance(result, dict)
            return {name: str(outcome) for name, outcome in result.items()}


async def _outcomes_of_command(
    worker: spindle_trio.Worker, at: Mapping[str, Any], sandbox: Sandbox | None, names: Sequence[str], python: str
) -> dict[str, str]:
    helper = shlex.join([python, f"{at['root']}/attempts.py"])
    lines = ['said="${TMPDIR:-/tmp}/said-$$"']
    for name in names:
        if name in in_shell.NATIVE:
            lines.append(f'if ({in_shell.NATIVE[name]}) > "$said" 2>&1; then echo "{name}=done"')
            lines.append(f'else echo "{name}=refused: $(tail -n 1 "$said")"; fi')
        else:
            lines.append(f'echo "{name}=$({helper} {name} "$targets" | tail -n 1)"')
    script = "\n".join([*lines, 'rm -f "$said"'])
    told = {**{name: str(value) for name, value in at.items()}, "targets": json.dumps(dict(at))}
    command = spindle_trio.Command(["sh", "-c", script], lane="lines", environment=told)
    handle = await worker.backend_processes.spawn(command, sandbox=sandbox, heartbeat_timeout=math.inf)
    outcomes: dict[str, str] = {}
    async for line in handle.messages():
        name, _, outcome = str(line).partition("=")
        outcomes[name] = outcome
    await handle.wait_ended()
    assert handle.state == "completed", handle.info.error
    return outcomes


def forbidden_by(preset: str | None) -> list[str]:
    """List what a preset forbids: names of attempts. `None` is for all that any forbids."""
    everything = [attempt.__name__ for attempt in attempts.FORBIDDEN]
    if preset is not None:
        everything += [attempt.__name__ for attempt in attempts.NEVER]
    if preset == "WORKSPACE_WRITE":
        return [name for name in everything if name != "write_root"]
    if preset == "OFFLINE":
        files = (*attempts.FILES_READ, *attempts.FILES_WRITTEN, attempts.write_root, attempts.proc_command_line)
        names = {attempt.__name__ for attempt in files} - {"proc_root", "open_by_handle"}
        return [name for name in everything if name not in names]
    return everything


def allowed_in(language: str) -> list[str]:
    """List what all presets allow. What a process has started finds no `/proc` of its own."""
    names = [attempt.__name__ for attempt in attempts.ALLOWED]
    return [name for name in names if language not in {"shell", "command"} or name != "own_proc"]


def quick_in(language: str, preset: str | None) -> list[str]:
    """List what takes no program of its own in a language."""
    names = [*forbidden_by(preset), *allowed_in(language)]
    if language == "python":
        return [name for name in names if name not in {"numpy", "other_interpreter"}]
    if language in {"shell", "command"}:
        return [name for name in names if name in in_shell.NATIVE]
    native = re.findall(r"^  (\w+): (?:async )?\(", (ENTRIES / "in_node.mjs").read_text(), re.MULTILINE)
    return [name for name in names if name in native]


def surprises(preset: str | None, outcomes: Mapping[str, str]) -> dict[str, str]:
    """Find what did not come out as a preset promises; `None` is for no sandbox."""
    forbidden = set() if preset is None else set(forbidden_by(preset))
    return {
        name: outcome
        for name, outcome in outcomes.items()
        if (not outcome.startswith("refused: ") if name in forbidden else outcome != "done")
    }


async def surprises_of(
    at: Mapping[str, Any],
    language: str,
    preset: str | None,
    launcher: spindle_trio.abc.Launcher,
    names: Sequence[str] = (),
) -> dict[str, str]:
    """Try everything in one language, or these things, and return what did not come out as the preset promises."""
    sandbox = None if preset is None else PRESETS[preset]
    names = names or [*forbidden_by(preset), *allowed_in(language)]
    return surprises(preset, await outcomes_of(at, language, sandbox, names, launcher))


def main(containment: str | None, *cells: str) -> None:
    """Try everything, and print what did not come out as promised."""
    found = {}
    for cell in cells:
        language, preset = cell.split(":")
        with prepared_place() as at:
            found[cell] = trio.run(
                surprises_of, at, language, preset or None, spindle_trio.DefaultLauncher(containment=containment)
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1] or None, *sys.argv[2:])
