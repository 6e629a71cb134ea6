"""`spindle-trio doctor`, on whatever machine this is."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from spindle_trio import Containment, HostStatistics, SandboxPart
from spindle_trio.cli import _doctor
from spindle_trio.javascript import OLDEST_NODE, RUNTIME


def test_doctor_says_a_line_for_each_thing_that_matters(run) -> None:
    done = run("doctor")
    assert done.status == 0, done.stdout
    assert done.stderr == ""
    names = [line[:25].strip() for line in done.lines]
    assert names == [
        "platform",
        "Python",
        "pidfd",
        "memfd",
        "descriptors",
        "JavaScript",
        "launcher",
        "level pidns",
        "level cgroup",
        "level sweep",
        "level killpg",
        "containment",
        "limit memory",
        "limit pids",
        "limit cpus",
        "limit cpu_seconds",
        "limit open_files",
        "limit file_bytes",
        "limit run_seconds",
        *(f"sandbox {part}" for part in SandboxPart),
    ]
    said = dict(zip(names, (line[25:].strip() for line in done.lines), strict=True))
    assert "Linux" in said["platform"]
    assert said["pidfd"] == "yes"
    assert str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]) in said["descriptors"]
    assert "processes at once" in said["descriptors"]
    assert said["launcher"].startswith("DefaultLauncher")
    strongest = next(level for level in Containment if said[f"level {level}"].startswith("yes"))
    assert said["containment"].startswith(f"{strongest}: ")
    assert said["limit run_seconds"] == "deadline: a deadline of the host"
    for part in SandboxPart:
        assert said[f"sandbox {part}"].startswith(("yes: Landlock ", "yes: seccomp", "yes: PID namespace", "no: "))


def test_doctor_says_the_same_as_one_object(run_here) -> None:
    done = run_here("doctor", "--json")
    assert (done.status, done.stderr, len(done.lines)) == (0, "", 1)
    found = json.loads(done.stdout)
    assert sorted(found) == ["containment", "limits", "lines", "ok", "sandbox"]
    assert set(found["sandbox"]) == set(SandboxPart)
    assert found["limits"]["run_seconds"] == "deadline"
    assert found["ok"] is True
    assert found["containment"] in list(Containment)
    assert found["lines"]["containment"].startswith(f"{found['containment']}: ")
    assert found["lines"]["pidfd"] == "yes"


def test_doctor_answers_each_probe_with_yes_or_a_reason(run_here) -> None:
    lines = run_here("doctor").lines
    for line in [*lines[2:4], *lines[7:11]]:
        answer = line[25:].strip()
        assert answer == "yes" or answer.startswith(("yes; but ", "no: ")), line
    assert lines[5][25:].strip().startswith(("yes: ", "no: ")), lines[5]


@pytest.mark.parametrize(
    ("means", "problem", "line"),
    [
        ("cgroup", None, "cgroup: a control group for the whole tree of each process"),
        (
            "sampler",
            "read-only",
            "sampler: the host looks at the tree of each process often, and ends it when it is over",
        ),
        (None, "no controller", "no: no controller"),
        (None, None, "no: this launcher holds no such limit"),
        ("script", None, "script"),
    ],
)
def test_doctor_names_the_means_for_a_limit_or_why_there_is_none(
    means: str | None, problem: str | None, line: str
) -> None:
    statistics = HostStatistics(
        "L",
        workers=0,
        processes=0,
        states={},
        queued=0,
        abandoned=0,
        limit_means={} if means is None else {"memory": means},
        limit_problems={} if problem is None else {"memory": problem},
    )
    more = "; not by a control group: read-only" if means is not None and problem is not None else ""
    assert _doctor._limit_line("memory", statistics) == line + more


def test_doctor_counts_with_the_limit_to_which_a_host_raises_its_own(run_here) -> None:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(soft, hard - 1, 500)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
        line = next(line for line in run_here("doctor").lines if line.startswith("descriptors"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    each, own = _doctor._DESCRIPTORS_A_PROCESS, _doctor._DESCRIPTORS_OF_THE_HOST
    assert line[25:].strip() == (
        f"{lower} soft, {hard} hard, to which a host raises its own: "
        f"up to {(hard - own) // each} processes at once ({each} descriptors each)"
    )


INSTALL = "to run JavaScript entries, install Node 20.19 or later so that node is on the PATH"


@pytest.mark.parametrize(
    ("program", "script", "said"),
    [
        ("node", "echo v20.19.0", "yes: {path} v20.19.0"),
        ("node", "echo v24.0.1", "yes: {path} v24.0.1"),
        ("node", "echo v20.18.3", f"no: {{path}} is v20.18.3, older than 20.19; {INSTALL}"),
        ("node", "echo v8.9.9", f"no: {{path}} is v8.9.9, older than 20.19; {INSTALL}"),
        ("node", "exit 3", "no: {path} does not run (Command"),
        ("bun", "echo 1.2.3", "yes: {path} 1.2.3"),
        ("deno", "echo v9", f"no: neither node nor bun is on the PATH; {INSTALL}"),
    ],
)
def test_doctor_says_what_would_run_javascript_entries(
    folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, script: str, said: str
) -> None:
    path = folder / program
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o700)
    monkeypatch.setenv("PATH", str(folder))
    assert _doctor._javascript_line().startswith(said.format(path=path))


def test_the_oldest_node_is_the_same_to_the_host_and_to_the_runtime() -> None:
    runtime = RUNTIME.with_name("entry.mjs").read_text(encoding="utf-8")
    assert f"const OLDEST_NODE = {list(OLDEST_NODE)};" in runtime
