"""`spindle-trio doctor`, on whatever machine this is."""

from __future__ import annotations

import resource

from spindle_trio import Containment
from spindle_trio.cli import _doctor


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
        "descriptors",
        "Node",
        "launcher",
        "level pidns",
        "level cgroup",
        "level sweep",
        "level killpg",
        "containment",
    ]
    said = dict(zip(names, (line[18:].strip() for line in done.lines), strict=True))
    assert "Linux" in said["platform"]
    assert said["pidfd"] == "yes"
    assert str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]) in said["descriptors"]
    assert "processes at once" in said["descriptors"]
    assert said["launcher"].startswith("ForkServerLauncher")
    strongest = next(level for level in Containment if said[f"level {level}"] == "yes")
    assert said["containment"].startswith(f"{strongest}: ")


def test_doctor_answers_each_probe_with_yes_or_a_reason(run) -> None:
    lines = run("doctor").lines
    for line in [*lines[2:4], *lines[7:11]]:
        answer = line[18:].strip()
        assert answer == "yes" or answer.startswith("no: "), line


def test_doctor_counts_with_the_limit_to_which_a_host_raises_its_own(run) -> None:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(soft, hard - 1, 500)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
        line = next(line for line in run("doctor").lines if line.startswith("descriptors"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    each, own = _doctor._DESCRIPTORS_A_PROCESS, _doctor._DESCRIPTORS_OF_THE_HOST
    assert line[18:].strip() == (
        f"{lower} soft, {hard} hard, to which a host raises its own: "
        f"up to {(hard - own) // each} processes at once ({each} descriptors each)"
    )
