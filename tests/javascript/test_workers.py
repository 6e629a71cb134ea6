"""The backend of an extension in a JavaScript program, over the worker protocol: what it spawns runs in a real host."""

from __future__ import annotations

import subprocess
import textwrap
from functools import partial
from pathlib import Path

import trio

from spindle_trio import DefaultLauncher, Limits, ResourceLimits, StreamChannel, open_host
from support.backend import GUARD_SECONDS, both_programs, root, shown_by

__all__ = ["root"]

pytestmark = both_programs


async def test_a_backend_spawns_talks_and_stops(root: Path, program: str) -> None:
    (said, _) = await shown_by(
        program,
        root,
        """
        const messages = [];
        backendProcesses.onMessage((event) => messages.push(event));
        const options = { entry: "echo.py", kind: "k", key: "c", payload: { chat: 42 }, metadata: { ticket: 7 } };
        const handle = await backendProcesses.spawn({ ...options, heartbeatTimeoutMs: Infinity });
        const { processId } = handle;
        said.push([handle.entry, handle.kind, handle.key, handle.info.state, handle.info.metadata]);
        handle.send({ "größe": "\\u{1f600}" });
        await until(() => messages.length === 2);
        said.push(messages.map((event) => [event.processId === processId, event.payload, event.userId]));
        said.push((await backendProcesses.list({ key: "c" })).map((info) => info.processId === processId));
        said.push((await backendProcesses.list({ key: "d" })).length);
        said.push((await backendProcesses.get(processId)).state, await backendProcesses.get("none"));
        said.push((await handle.refresh()).state);
        said.push((await handle.stop({ reason: "enough" })) === undefined);
        await until(() => states().includes("stopped"));
        const { state, exitReason, endedAt } = handle.info;
        said.push([state, exitReason, typeof endedAt], await handle.refresh(), handle.info.state, states());
        """,
    )
    assert said == [
        ["echo.py", "k", "c", "running", {"ticket": 7}],
        [[True, {"user": "ada", "payload": {"chat": 42}}, "ada"], [True, {"größe": "\U0001f600"}, "ada"]],
        [True],
        0,
        "running",
        None,
        "running",
        True,
        ["stopped", "stopped", "string"],
        None,
        "stopped",
        ["starting", "running", "stopping", "stopped"],
    ]


async def test_dates_and_bytes_arrive_as_such(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        """
        const handle = await backendProcesses.spawn({ entry: "echo.mjs" });
        const show = ({ at, files, plain }) => [at instanceof Date, at.getTime(), Buffer.isBuffer(files[0]), plain];
        backendProcesses.onMessage(({ payload }) => said.push(payload.at === undefined ? payload : show(payload)));
        handle.send("rich");
        handle.send({ "$date": "is a name like any other" });
        await until(() => said.length === 2);
        await handle.stop({ reason: "enough" });
        await until(() => states().includes("completed"));
        const { result } = events.at(-1);
        said.push([show(result), result.reason]);
        """,
    )
    rich = [True, 0, True, {"$set": 1}]
    assert said == [rich, {"$date": "is a name like any other"}, [rich, "enough"]]


async def test_an_error_has_the_name_and_the_facts_of_the_hosts(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        """
        const spawn = (options) => refusal(() => backendProcesses.spawn(options));
        said.push(await spawn({ entry: "none.py" }));
        said.push(await spawn({ entry: "early.py" }));
        const handle = await backendProcesses.spawn({ entry: "echo.py", key: "c" });
        said.push(await spawn({ entry: "echo.py", key: "c" }));
        said.push(await spawn({ entry: "echo.py", key: "d" }));
        said.push(await spawn({ entry: "echo.py", kind: 7 }));
        said.push(await spawn({ entry: "echo.py", payload: [new Set()] }));
        const answer = await backendProcesses.get(handle.processId).then(() => backendProcesses.get(7)).catch((e) => e);
        said.push([answer instanceof BackendProcessError, answer instanceof Error]);
        """,
        max_processes=1,
    )
    missing, early, duplicate, limited, wrong, unsafe, kinds = said
    assert missing["name"] == "EntryError"
    assert (early["name"], early["result"], early["info"]["state"]) == ("StartupFailedError", "early", "completed")
    assert (duplicate["name"], duplicate["info"]["key"]) == ("DuplicateKeyError", "c")
    assert (limited["name"], limited["limit"]) == ("ProcessLimitError", 1)
    assert wrong["name"] == "PeerProtocolError"
    assert (unsafe["name"], unsafe["message"]) == ("PayloadError", "options.payload[0]: Set is not JSON-safe")
    assert kinds == [True, True]


async def test_limits_and_figures(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        """
        const spawn = (options) => refusal(() => backendProcesses.spawn({ entry: "echo.py", ...options }));
        said.push(await spawn({ resourceLimits: { runMs: 90000 } }));
        said.push(await spawn({ resourceLimits: { memory: 0 } }));
        const handle = await backendProcesses.spawn({ entry: "echo.py", resourceLimits: { runMs: 300 } });
        said.push(typeof await handle.usage());
        await until(() => states().includes("timed_out"));
        said.push(handle.info.error, (await refusal(() => handle.usage())).name);
        """,
        resource_limits=ResourceLimits(run_seconds=60),
    )
    above, wrong, usage, error, late = said
    assert (above["name"], wrong["name"]) == ("ResourceLimitError", "PeerProtocolError")
    assert usage == "object"
    assert (error.partition("\n")[0], late) == ("ran for longer than run_seconds=0.3", "BrokenResourceError")


async def test_a_worker_runs_the_programs_that_its_host_allows(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        """
        const spawn = (entry) => refusal(() => backendProcesses.spawn({ entry }));
        said.push(await spawn({ argv: ["ls"] }), await spawn({ argv: "cat" }));
        said.push(await spawn({ argv: ["cat"], lane: "x" }));
        const heard = [];
        backendProcesses.onMessage((message) => heard.push(message.payload));
        const handle = await backendProcesses.spawn({ entry: { argv: ["cat"], lane: "lines" } });
        handle.send("a line");
        await until(() => heard.length > 0);
        await handle.stop();
        said.push(handle.entry, heard);
        """,
        commands={"cat"},
    )
    refused, wrong, lane, entry, heard = said
    assert (refused["name"], wrong["name"], lane["name"]) == ("EntryError", "PeerProtocolError", "PeerProtocolError")
    assert wrong["message"] == "options.entry: argv: expected an array, got a string"
    assert (entry, heard) == ("cat", ["a line"])


async def test_a_key_is_kept_for_a_successor(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        """
        const spawn = (options) => refusal(() => backendProcesses.spawn({ kind: "k", key: "c", ...options }));
        const { info: { processId: first } } = await spawn({ entry: "early.py", keepKey: true });
        const second = await spawn({ entry: "echo.py" });
        said.push([second.name, second.info.processId === first]);
        const third = await spawn({ entry: "echo.py", keepKey: true, successorOf: first });
        said.push(third.info.state, (await spawn({ entry: "echo.py", successorOf: first })).name);
        await third.stop({ keepKey: true });
        await until(() => states().includes("stopped"));
        said.push((await spawn({ entry: "echo.py" })).name);
        said.push((await backendProcesses.releaseKey(third.processId)) === undefined);
        said.push((await spawn({ entry: "echo.py" })).info.state);
        said.push((await refusal(() => backendProcesses.spawn({ entry: "echo.py", keepKey: true }))).message);
        """,
    )
    assert said == [
        ["DuplicateKeyError", True],
        "running",
        "KeyLostError",
        "DuplicateKeyError",
        True,
        "running",
        "options: keep_key needs a key: give the spawn one that is not blank",
    ]


async def test_what_cannot_be_sent_is_refused_here_or_reported(root: Path, program: str) -> None:
    said, stderr = await shown_by(
        program,
        root,
        """
        const handle = await backendProcesses.spawn({ entry: "echo.py" });
        said.push(await refusal(() => handle.send({ when: new Date(0) })));
        said.push(await refusal(() => handle.send("x".repeat(2 ** 24))));
        backendProcesses.onMessage(({ payload }) => payload.user ?? said.push(payload));
        handle.send("x".repeat(2000));
        handle.send("fits");
        await until(() => said.length === 3);
        """,
        limits=Limits(frame_bytes=1000),
    )
    date, long, fits = said
    assert (date["name"], date["message"]) == ("PayloadError", "payload.when: Date is not JSON-safe")
    assert long["name"] == "PayloadError"
    assert fits == "fits"
    assert "a message did not reach process" in stderr
    assert "2002 bytes as JSON, more than 1000 in one frame" in stderr


async def test_a_lost_connection_rejects_what_waits_and_what_comes_later(root: Path, program: str) -> None:
    said, _ = await shown_by(
        program,
        root,
        """
        const handle = await backendProcesses.spawn({ entry: "echo.py" });
        const waiting = backendProcesses.list().catch(about);
        spindle.close();
        spindle.close();
        said.push(await waiting, await refusal(() => handle.refresh()), await refusal(() => handle.send(1)));
        await spindle.closed;
        said.push(states().at(-1), events.at(-1).exitReason);
        """,
    )
    lost = {"name": "ConnectionLostError", "message": "the connection was closed here"}
    assert said == [lost, lost, lost, "stopped", "backend_unloaded"]


async def test_handlers_are_unregistered_and_one_that_throws_stops_no_other(root: Path, program: str) -> None:
    said, stderr = await shown_by(
        program,
        root,
        """
        const off = backendProcesses.onLifecycle(() => said.push("off"));
        off();
        backendProcesses.onLifecycle(() => { throw new Error("cannot listen"); });
        backendProcesses.onLifecycle(({ state }) => said.push(state));
        await backendProcesses.spawn({ entry: "echo.py" });
        said.push("spawned");
        """,
    )
    assert said[:3] == ["starting", "running", "spawned"]
    assert stderr.count("a lifecycle handler threw: Error: cannot listen") == len(said) - 1


async def test_a_backend_over_its_standard_streams(root: Path, program: str) -> None:
    (root / "backend.mjs").write_text(
        textwrap.dedent("""
        import { connectWorker } from "spindle-trio/worker.mjs";
        const { backendProcesses } = connectWorker({ readable: process.stdin, writable: process.stdout });
        const handle = await backendProcesses.spawn({ entry: "echo.py", payload: "x".repeat(100_000) });
        backendProcesses.onMessage(({ payload }) => {
          console.error(payload.user ?? payload.length);
          if (payload.user === undefined) process.exit();
        });
        handle.send("y".repeat(1_000_000));
        """)
    )
    with trio.fail_after(GUARD_SECONDS):
        async with open_host(DefaultLauncher(preload=())) as host, trio.open_nursery() as nursery:
            start = partial(
                trio.run_process, [program, "backend.mjs"], cwd=root, capture_stderr=False, stdin=subprocess.PIPE
            )
            process = await nursery.start(partial(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
            assert process.stdio is not None
            await host.serve_worker(StreamChannel(process.stdio), "remote", root=root, user_id="ada")
            text = b""
            async for chunk in process.stderr:
                text += chunk
    assert text.decode().split()[-1] == "1000000"
