"""`spindle-trio doctor`, on whatever machine this is."""

from __future__ import annotations

import resource


def test_doctor_says_a_line_for_each_thing_that_matters(run) -> None:
    done = run("doctor")
    assert done.status == 0, done.stdout
    assert done.stderr == ""
    names = [line[:18].strip() for line in done.lines]
    assert names == [
        "platform",
        "Python",
        "pidfd",
        "memfd",
        "user namespaces",
        "PID namespaces",
        "cgroup delegation",
        "descriptors",
        "Node",
        "launcher",
        "containment",
    ]
    said = dict(zip(names, (line[18:].strip() for line in done.lines), strict=True))
    assert "Linux" in said["platform"]
    assert said["pidfd"] == "yes"
    assert str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]) in said["descriptors"]
    assert "processes at once" in said["descriptors"]
    assert said["launcher"].startswith("PythonLauncher")
    assert said["containment"].startswith("killpg")


def test_doctor_answers_each_probe_with_yes_or_a_reason(run) -> None:
    for line in run("doctor").lines[2:7]:
        answer = line[18:].strip()
        assert answer == "yes" or answer.startswith("no: "), line
