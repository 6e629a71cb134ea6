"""An entry's surroundings at its start, and its output.

Real processes only, but for the facts that its context tells: in memory an entry lives in its host's surroundings.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest
from trio.testing import MockClock

import spindle_trio
from spindle_trio import OMITTED, ProcessState
from support.contract import run_to_end, stderr_of

FACTS = """
        {0} run(process):
            process.ready()
            return {{
                "process_id": process.process_id, "entry": process.entry, "kind": process.kind, "key": process.key,
                "payload": process.payload, "has_payload": process.has_payload, "metadata": process.metadata,
                "user_id": process.user_id, "shown": repr(process),
            }}
"""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"kind": " indexer ", "key": " chat:42 ", "payload": {"a": [1]}, "metadata": {"b": None}},
            {"kind": "indexer", "key": "chat:42", "payload": {"a": [1]}, "has_payload": True, "metadata": {"b": None}},
        ),
        ({"payload": None}, {"kind": "entry.py", "key": None, "payload": None, "has_payload": True, "metadata": None}),
        ({}, {"kind": "entry.py", "key": None, "payload": None, "has_payload": False, "metadata": None}),
    ],
)
async def test_the_context_tells_the_facts_and_an_omitted_payload_from_none(
    world, world_clock: MockClock | None, options: dict[str, object], told: dict[str, object]
) -> None:
    handle = await run_to_end(world, world.entry(FACTS.format("async def")), **options)
    shown = f"<ProcessContext running entry.py {handle.process_id}>"
    facts = {"process_id": handle.process_id, "entry": "entry.py", "user_id": "ada", "shown": shown}
    assert handle.result == {**facts, **told}


async def test_a_blocking_context_tells_the_facts_and_an_omitted_payload_from_none(real_world) -> None:
    entry = real_world.blocking_entry(FACTS.format("def"))
    async with real_world.worker() as worker:
        for payload in ({"a": [1]}, None, OMITTED):
            handle = await worker.backend_processes.spawn(entry, payload=payload, key="k", metadata={"b": None})
            await handle.wait_ended()
            given = payload is not OMITTED
            assert handle.result == {
                "process_id": handle.process_id,
                "entry": "entry.py",
                "kind": "entry.py",
                "key": "k",
                "payload": payload if given else None,
                "has_payload": given,
                "metadata": {"b": None},
                "user_id": "ada",
                "shown": f"<BlockingProcessContext running entry.py {handle.process_id}>",
            }


# ---- surroundings


SURROUNDINGS = """
import os, sys
import beside

{0} run(process):
    process.ready()
    return {{
        "cwd": os.getcwd(), "path": sys.path, "argv": sys.argv, "name": __name__, "module": run.__module__,
        "beside": beside.__file__,
    }}
"""


@pytest.mark.parametrize("definition", ["def", "async def"])
async def test_an_entry_finds_its_folder_its_name_and_the_hosts_path(
    real_world, definition: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.syspath_prepend(tmp_path_factory.mktemp("host_only"))
    folder = real_world.root / "dist" / "inner"
    folder.mkdir(parents=True)
    (folder / "beside.py").touch()
    (folder / "index-er.py").write_text(SURROUNDINGS.format(definition))
    found = (await run_to_end(real_world, "dist/inner/index-er.py")).result
    assert found == {
        "cwd": str(real_world.root),
        "path": [str(folder), *map(os.path.abspath, sys.path)],
        "argv": ["dist/inner/index-er.py"],
        "name": "index-er",
        "module": "index-er",
        "beside": str(folder / "beside.py"),
    }


async def test_without_a_root_it_is_the_hosts_current_directory_when_the_worker_opens(
    real_world, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = real_world.blocking_entry("import os\ndef run(process):\n    process.ready()\n    return os.getcwd()")
    monkeypatch.chdir(real_world.root)
    async with real_world.host() as host, host.open_worker("tests", user_id="ada") as worker:
        monkeypatch.chdir("/")
        handle = await worker.backend_processes.spawn(entry)
        await handle.wait_ended()
    assert handle.result == str(real_world.root)


async def test_a_host_whose_current_directory_was_deleted_still_runs_what_has_a_root(
    real_world, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Daemons live on in folders that others clean up; neither the root nor what can be imported depends on it."""
    entry = real_world.entry("async def run(process):\n    process.ready()\n    return 'ran'")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    gone.rmdir()
    assert (await run_to_end(real_world, entry)).result == "ran"


async def test_what_is_no_text_in_the_hosts_search_path_is_left_out_as_importing_leaves_it_out(
    real_world, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = real_world.entry("async def run(process):\n    process.ready()\n    return 'ran'")
    monkeypatch.setattr(sys, "path", [*sys.path, None, 5, Path("/nowhere")])
    assert (await run_to_end(real_world, entry)).result == "ran"


ALLOWED = set("PATH HOME USER LOGNAME SHELL LANG TZ TMPDIR TERM VIRTUAL_ENV PYTHONPATH PYTHONHASHSEED".split())  # noqa: SIM905  # as in the contract
ENVIRONMENT = "import os\ndef run(process):\n    process.ready()\n    return dict(os.environ)"


async def test_the_environment_is_a_short_allow_list_of_the_hosts_and_has_none_of_its_secrets(
    real_world, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("LC_"):
            monkeypatch.delenv(name)
    given = {
        "PATH": os.environ["PATH"], "HOME": "/home/ada", "USER": "ada", "LOGNAME": "ada", "SHELL": "/bin/sh",
        "LANG": "C.UTF-8", "TZ": "UTC", "TMPDIR": str(real_world.root), "TERM": "dumb", "VIRTUAL_ENV": "/venv",
        "PYTHONPATH": "/somewhere", "PYTHONHASHSEED": "7", "LC_TIME": "C", "LC_MONETARY": "C",
    }  # fmt: skip
    assert given.keys() >= ALLOWED
    secrets = {"API_TOKEN": "secret", "AWS_SECRET_ACCESS_KEY": "secret", "PYTHONSTARTUP": "/x", "LD_LIBRARY_PATH": "/x"}
    for name, value in {**given, **secrets}.items():
        monkeypatch.setenv(name, value)
    assert (await run_to_end(real_world, real_world.blocking_entry(ENVIRONMENT))).result == given


async def test_what_the_host_does_not_have_the_child_does_not_get(real_world, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHELL", "TZ", "VIRTUAL_ENV", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    result = (await run_to_end(real_world, real_world.blocking_entry(ENVIRONMENT))).result
    assert not result.keys() & {"SHELL", "TZ", "VIRTUAL_ENV", "PYTHONPATH"}


async def test_open_host_may_be_given_another_environment(real_world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "shared on purpose")
    entry = real_world.blocking_entry(ENVIRONMENT)
    whole = (await run_to_end(real_world, entry, host={"environment": os.environ})).result
    assert whole.items() >= dict(os.environ).items()
    mapping = {"ONLY": "this", "LANG": "C.UTF-8"}
    assert (await run_to_end(real_world, entry, host={"environment": mapping})).result == mapping


async def test_stdin_is_the_null_device(real_world) -> None:
    entry = real_world.blocking_entry("""
        import os, sys
        def run(process):
            process.ready()
            return [os.readlink("/proc/self/fd/0"), sys.stdin.read()]
    """)
    assert (await run_to_end(real_world, entry)).result == ["/dev/null", ""]


# ---- print is safe


async def test_what_is_printed_disturbs_no_frame(real_world) -> None:
    """Not even if it looks like one, or like the end of one."""
    entry = real_world.blocking_entry(r"""
        import os, sys
        def run(process):
            process.ready()
            for number in range(50):
                os.write(1, b"\x00\x00\x00\x01x\xff\xff\xff\xff")
                print('{"type": "fail", "error": "printed"}')
                process.send(number)
                print("more", file=sys.stderr)
            return "done"
    """)
    handle = await run_to_end(real_world, entry)
    assert real_world.payloads() == list(range(50))
    assert (handle.info.state, handle.result) == (ProcessState.COMPLETED, "done")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_300_kilobytes_before_ready_hold_nothing_up(real_world, stream: str) -> None:
    entry = real_world.blocking_entry(f"""
        import sys
        def run(process):
            sys.{stream}.write("x" * 300_000)
            sys.{stream}.flush()
            process.ready()
    """)
    handle = await run_to_end(real_world, entry)
    assert handle.info.state is ProcessState.COMPLETED
    assert handle.statistics().output_dropped == 300_000 - 64 * 1024


async def test_a_flood_on_both_streams_is_drained_and_counted(real_world) -> None:
    entry = real_world.blocking_entry("""
        import os
        def run(process):
            process.ready()
            for _ in range(64):
                os.write(1, b"o" * 65_536)
                os.write(2, b"e" * 65_536)
            os.write(2, b"the end")
    """)
    handle = await run_to_end(real_world, entry)
    assert handle.info.state is ProcessState.COMPLETED
    assert handle.statistics().output_dropped == 2 * 63 * 65_536 + len("the end")
    assert len(stderr_of(handle)) == 64 * 1024
    assert stderr_of(handle).endswith("the end")


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "statement",
    [
        "os.close(0); os.close(1); os.close(2)",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout = sys.stderr = None",
    ],
)
async def test_closed_streams_hurt_nobody(real_world, statement: str) -> None:
    entry = real_world.blocking_entry(f"""
        import os, sys
        def run(process):
            {statement}
            process.ready()
            process.on_message(process.complete)
            def raises(message):
                raise LookupError("reported nowhere")
            process.on_stop(raises)
    """)
    async with real_world.worker() as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.send("echo")
        await handle.wait_ended()
    assert (handle.info.error, handle.result) == (None, "echo")


async def test_invalid_utf_8_is_shown_as_such_in_the_error_of_an_exit(real_world) -> None:
    entry = real_world.blocking_entry(r"""
        import os, sys
        def run(process):
            process.ready()
            print("lone \udc80")
            os.write(2, b"\xff\xfe broken")
            sys.exit(3)
    """)
    info = (await run_to_end(real_world, entry)).info
    assert info.error.startswith("exited with code 3")
    assert "\ufffd\ufffd broken" in info.error


async def test_any_text_can_be_printed_whatever_the_environment_says_of_encodings(real_world) -> None:
    entry = real_world.blocking_entry(r"""
        def run(process):
            process.ready()
            print("naïve \udc80")
            return "printed"
    """)
    environment = {"PYTHONIOENCODING": "ascii:strict"}
    assert (await run_to_end(real_world, entry, host={"environment": environment})).result == "printed"


async def test_a_line_that_was_printed_is_not_lost_with_its_process(
    real_world, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spindle_trio.process")
    entry = real_world.blocking_entry("""
        import os, signal
        def run(process):
            process.ready()
            print("the last line")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    handle = await run_to_end(real_world, entry)
    assert f"{handle.process_id}: the last line" in caplog.messages


async def test_lines_go_to_the_log_with_the_process_id_at_most_100_a_second(
    real_world, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spindle_trio.process")
    flooding = real_world.blocking_entry(
        """
        def run(process):
            process.ready()
            for number in range(5_000):
                print("line", number)
        """,
        "flooding.py",
    )
    complaining = real_world.blocking_entry(
        """
        import sys

        def run(process):
            print("to stderr", file=sys.stderr)
            process.ready()
        """,
        "complaining.py",
    )
    async with real_world.worker() as worker:
        flood, complaint = [await worker.backend_processes.spawn(entry) for entry in (flooding, complaining)]
        await flood.wait_ended()
        await complaint.wait_ended()
    logged = [record for record in caplog.records if record.name == "spindle_trio.process.stdout"]
    texts = [record.getMessage() for record in logged]
    assert all(flood.process_id in text for text in texts)
    assert f"{flood.process_id}: line 0" in texts
    assert sum(record.created - logged[0].created < 1 for record in logged) <= 101  # one counts what was left out
    assert any("more lines were not logged" in text for text in texts)
    errors = [record.getMessage() for record in caplog.records if record.name == "spindle_trio.process.stderr"]
    assert errors == [f"{complaint.process_id}: to stderr"]


async def test_where_that_logger_is_off_nothing_is_logged(real_world, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "spindle_trio.process")
    entry = real_world.blocking_entry("def run(process):\n    print('quiet')\n    process.ready()")
    await run_to_end(real_world, entry)
    assert not [record for record in caplog.records if record.name.startswith("spindle_trio.process")]


async def test_a_child_runs_the_hosts_copy_of_this_package(real_world, tmp_path: Path) -> None:
    """Another copy that comes first in the child's search path may be of another version, or no copy at all."""
    impostor = tmp_path / "elsewhere" / "spindle_trio"
    impostor.mkdir(parents=True)
    (impostor / "__init__.py").write_text("raise ImportError('the wrong copy')")
    entry = real_world.blocking_entry("""
        import spindle_trio

        def run(process):
            process.ready()
            return spindle_trio.__file__
    """)
    async with real_world.worker(environment={"PYTHONPATH": str(impostor.parent)}) as worker:
        handle = await worker.backend_processes.spawn(entry)
        await handle.wait_ended()
    assert handle.result == spindle_trio.__file__
