"""The program for a JavaScript entry: found, missing, named, removed, too old; and Python entries beside it."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from spindle_trio import (
    Containment,
    EntryError,
    LaunchError,
    NodeLauncher,
    ProcessState,
    PythonLauncher,
    StartupFailedError,
    open_host,
)
from spindle_trio.abc import ResolvedEntry
from spindle_trio.launchers import DefaultLauncher
from spindle_trio.launchers._node import JavaScriptEngine
from support.javascript import WAITS, Stage, body, needs_bun, outcome

NODE = shutil.which("node")

PYTHON_ECHO = """
def run(process):
    process.ready()
    while True:
        process.send(["python", process.receive()])
"""

JAVASCRIPT_ECHO = body("p.onMessage((m) => p.send(['javascript', m])); p.ready();")


@pytest.fixture
def without_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have a PATH on which there is no Node and no Bun."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(folder))


def program(root: Path, name: str = "my-node") -> Path:
    """Write a program that runs Node."""
    path = root / name
    path.write_text(f'#!/bin/sh\nexec "{NODE}" "$@"\n')
    path.chmod(0o755)
    return path


async def test_python_and_javascript_entries_live_side_by_side_in_one_worker(stage: Stage) -> None:
    async with stage.host(DefaultLauncher(preload=())) as host:
        handles = [
            await stage.spawn(source, suffix=suffix)
            for source, suffix in [
                (PYTHON_ECHO, ".py"),
                (JAVASCRIPT_ECHO, ".js"),
                (JAVASCRIPT_ECHO, ".mjs"),
                (PYTHON_ECHO, ".py"),
                ("exports.run = (p) => { p.onMessage((m) => p.send(['javascript', m])); p.ready(); };", ".cjs"),
            ]
        ]
        for number, handle in enumerate(handles):
            messages = handle.messages()
            await handle.send(number)
            assert await messages.receive() == ["python" if handle.entry.endswith(".py") else "javascript", number]
        assert [info.entry for info in await stage.worker.backend_processes.list()] == [it.entry for it in handles]
        assert host.statistics().launcher == "DefaultLauncher"
    assert {handle.state for handle in handles} == {ProcessState.STOPPED}


async def test_it_is_what_a_host_uses_where_nothing_else_was_named(stage: Stage) -> None:
    async with (
        open_host() as host,
        host.open_worker("tests", root=stage.root, user_id="ada") as worker,
    ):
        assert host.statistics().launcher == "DefaultLauncher"
        await worker.backend_processes.spawn(stage.write(WAITS, ".js"))
        await worker.backend_processes.spawn(stage.write(PYTHON_ECHO, ".py"))


async def test_one_key_may_change_its_language(stage: Stage) -> None:
    async with stage.host(DefaultLauncher(preload=())):
        options = {"kind": "indexer", "key": "one", "replace_existing": True}
        first = await stage.spawn(PYTHON_ECHO, suffix=".py", **options)
        second = await stage.spawn(WAITS, **options)
        third = await stage.spawn(PYTHON_ECHO, suffix=".py", **options)
        assert [str(handle.info.exit_reason) for handle in (first, second)] == ["replaced", "replaced"]
        assert third.state is ProcessState.RUNNING


async def test_other_suffixes_are_refused_with_those_that_are_run(stage: Stage) -> None:
    hosts = [
        (DefaultLauncher(preload=()), [".ts", ".JS", ".mjs.txt", ".pyc", ""], r"\.py or \.js or \.mjs or \.cjs"),
        (NodeLauncher(), [".py", ".ts", ".Mjs", ""], r"\.js or \.mjs or \.cjs"),
        (PythonLauncher(), [".js", ".mjs", ".cjs"], r"\.py"),
    ]
    for launcher, suffixes, wanted in hosts:
        async with stage.host(launcher):
            for suffix in suffixes:
                with pytest.raises(EntryError, match=f"this launcher runs files whose names end in {wanted}$"):
                    await stage.spawn(WAITS, suffix=suffix)
    assert stage.events == []


@pytest.mark.usefixtures("without_node")
async def test_without_node_a_javascript_entry_is_refused_with_what_to_install_and_python_goes_on(stage: Stage) -> None:
    async with stage.host(DefaultLauncher(preload=())):
        for suffix in (".js", ".mjs", ".cjs"):
            with pytest.raises(
                EntryError, match=r"neither node .* install Node 20\.19 or later .* DefaultLauncher\(node="
            ):
                await stage.spawn(WAITS, suffix=suffix)
        assert stage.events == []
        python = await stage.spawn(PYTHON_ECHO, suffix=".py", kind="k", key="k")
        with pytest.raises(EntryError):
            await stage.spawn(WAITS, kind="k", key="k", replace_existing=True)
        assert python.state is ProcessState.RUNNING, "checked before the old process of the key is touched"
        with pytest.raises(EntryError, match="there is no file"):
            await stage.worker.backend_processes.spawn("not-there.js")


BUNDLE = """// @bun
var __require = import.meta.require;
var os = __require("os");
export default (p) => { p.ready(); p.complete([process.versions.bun !== undefined, os.EOL]); };
"""


async def test_a_bundle_for_bun_is_refused_by_name_where_there_is_no_bun(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stage.root / "bin"
    folder.mkdir()
    (folder / "node").symlink_to(str(NODE))
    monkeypatch.setenv("PATH", str(folder))
    for launcher in (DefaultLauncher(preload=()), NodeLauncher(), NodeLauncher(str(NODE))):
        async with stage.host(launcher):
            for source in (BUNDLE, f"#!/usr/bin/env bun\n{BUNDLE}"):
                with pytest.raises(EntryError, match=r"a bundle for Bun, and there is no bun on the PATH; install Bun"):
                    await stage.spawn(source)
            assert await stage.result(body("// @bun\np.ready(); p.complete(1);")) == 1, "not at its begin"


def test_an_entry_that_has_become_a_pipe_holds_up_no_host(tmp_path: Path) -> None:
    """Between its check and the look at its beginning, and again at its launch."""
    pipe = tmp_path / "entry.mjs"
    os.mkfifo(pipe)
    entry = ResolvedEntry("entry.mjs", pipe)
    looks = threading.Thread(target=lambda: JavaScriptEngine(None).path_for(entry), daemon=True)
    looks.start()
    looks.join(5)
    waits = looks.is_alive()
    fd = os.open(pipe, os.O_RDWR)  # lets it go on, in any case
    looks.join(5)
    assert not waits
    JavaScriptEngine(None).path_for(entry)  # somebody could write into it, and nobody has
    os.close(fd)


@needs_bun
async def test_a_bundle_for_bun_runs_in_bun_and_all_else_in_node(stage: Stage) -> None:
    for launcher in (DefaultLauncher(preload=()), NodeLauncher(str(NODE)), NodeLauncher("bun")):
        async with stage.host(launcher):
            for source in (BUNDLE, f"#!/usr/bin/env bun\n{BUNDLE}"):
                assert await stage.result(source, suffix=".js") == [True, "\n"]
    unmarked = BUNDLE.removeprefix("// @bun\n").replace("import.meta.require", "() => ({ EOL: 'none' })")
    async with stage.host():
        assert await stage.result(unmarked) == [False, "none"]


async def test_node_that_is_installed_while_a_host_is_open_is_found(
    stage: Stage, without_node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage.host(DefaultLauncher(preload=())):
        with pytest.raises(EntryError):
            await stage.spawn(WAITS)
        monkeypatch.setenv("PATH", os.path.dirname(str(NODE)))
        assert (await stage.spawn(WAITS)).state is ProcessState.RUNNING


@pytest.mark.usefixtures("without_node")
async def test_without_node_its_launcher_refuses_to_open() -> None:
    with pytest.raises(RuntimeError, match=r"NodeLauncher: neither node nor bun is on the PATH; install Node"):
        async with open_host(NodeLauncher()):
            raise AssertionError("it has opened")


async def test_a_named_program_that_is_not_there_is_named(stage: Stage) -> None:
    with pytest.raises(RuntimeError, match=r"there is no '/not/there/node'; install"):
        async with open_host(NodeLauncher("/not/there/node")):
            raise AssertionError("it has opened")
    async with stage.host(DefaultLauncher(node="/not/there/node")):
        with pytest.raises(EntryError, match=r"there is no '/not/there/node'"):
            await stage.spawn(WAITS)


async def test_a_named_program_is_the_one_that_runs_entries(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(stage.root)
    ask = body("p.ready(); p.complete(process.env.RUN_BY ?? null);")
    path.write_text(path.read_text().replace("exec", "export RUN_BY=me; exec"))
    assert repr(NodeLauncher(str(path))) == f"NodeLauncher({str(path)!r})"
    monkeypatch.chdir(stage.root.parent)
    relative = f"./{stage.root.name}/{path.name}"
    for launcher in (NodeLauncher(str(path)), NodeLauncher(relative), DefaultLauncher(node=str(path))):
        async with stage.host(launcher):
            assert await stage.result(ask) == "me"


async def test_a_program_that_is_removed_later_is_told_and_harms_nobody(stage: Stage) -> None:
    path = program(stage.root)
    async with stage.host(NodeLauncher(str(path))):
        lives = await stage.spawn(WAITS)
        path.unlink()
        with pytest.raises((LaunchError, EntryError), match="my-node"):
            await stage.spawn(WAITS)
        assert lives.state is ProcessState.RUNNING
        program(stage.root)
        assert (await stage.spawn(WAITS)).state is ProcessState.RUNNING


async def test_a_program_that_is_none_fails_as_a_start(stage: Stage) -> None:
    path = program(stage.root)
    async with stage.host(NodeLauncher(str(path))):
        path.write_text("\x7fELF, or rather not")
        with pytest.raises((LaunchError, StartupFailedError)) as caught:
            await stage.spawn(WAITS)
        assert "Exec format error" in str(caught.value)
        path.write_text("#!/bin/sh\necho 'wrong program' >&2; exit 7\n")
        with pytest.raises(StartupFailedError, match="exited with code 7") as failed:
            await stage.spawn(WAITS)
        assert "wrong program" in str(failed.value)


async def test_a_variable_that_no_program_can_be_started_with_is_named(stage: Stage) -> None:
    """It does not affect forked processes."""
    most = 32 * os.sysconf("SC_PAGESIZE") - len("LONG=") - 1
    ask = body("p.ready(); p.complete(process.env.LONG.length);")
    async with stage.host(DefaultLauncher(preload=()), environment={"LONG": "x" * most}):
        assert await stage.result(ask) == most
    async with stage.host(DefaultLauncher(preload=()), environment={"LONG": "x" * (most + 1)}):
        with pytest.raises(LaunchError, match=r"the variable 'LONG' has \d+ bytes, and the system starts no program"):
            await stage.spawn(ask)
        ask = "import os\ndef run(process):\n    process.ready()\n    return len(os.environ['LONG'])"
        assert await stage.result(ask, suffix=".py") == most + 1


OLD = """
Object.defineProperty(process, "versions", { value: { ...process.versions, node: "18.20.4" } });
delete String.prototype.isWellFormed;
delete String.prototype.toWellFormed;
"""


@pytest.mark.parametrize("version", ["18.20.4", "20.18.3"])
async def test_a_node_that_is_too_old_says_so(stage: Stage, version: str) -> None:
    """It is this one, made to say that it is older, and to lack what an older one lacks."""
    (stage.root / "old.mjs").write_text(OLD.replace("18.20.4", version))
    environment = {"PATH": os.environ["PATH"], "NODE_OPTIONS": f"--import {(stage.root / 'old.mjs').as_uri()}"}
    async with stage.host(environment=environment):
        error = await stage.refusal("throw new Error('called');")
    assert error.info.error == f"Node {version} is too old for JavaScript entries: install 20.19 or later"


@pytest.mark.parametrize("version", ["20.19.0", "22.1.0", "100.0.0"])
async def test_a_node_that_is_new_enough_is_fine(stage: Stage, version: str) -> None:
    (stage.root / "new.mjs").write_text(OLD.partition("delete")[0].replace("18.20.4", version))
    environment = {"PATH": os.environ["PATH"], "NODE_OPTIONS": f"--import {(stage.root / 'new.mjs').as_uri()}"}
    async with stage.host(environment=environment):
        assert await stage.result(body("p.ready(); p.complete(process.versions.node);")) == version


@pytest.mark.parametrize("level", list(Containment))
async def test_javascript_entries_run_at_each_level_of_containment(stage: Stage, level: Containment) -> None:
    try:
        async with stage.host(NodeLauncher(containment=level)) as host:
            assert host.statistics().containment is level
            handle = await stage.spawn(JAVASCRIPT_ECHO)
            messages = handle.messages()
            await handle.send(1)
            assert await messages.receive() == ["javascript", 1]
            await handle.stop()
            assert await outcome(handle) == ("stopped", None)
    except RuntimeError as error:
        pytest.skip(f"{level} does not work on this machine: {error}")
