"""Bad options and entries: exit status 2, and one line that shows what to type instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from spindle_trio.cli import main

FINE = "def run(process):\n    process.ready()\n"


@pytest.mark.parametrize(
    ("arguments", "to_type"),
    [
        ([], "spindle-trio run ENTRY"),
        (["rnu", "x.py"], "spindle-trio run ENTRY"),
        (["run"], "spindle-trio run ENTRY"),
        (["run", "x.py", "y.py"], "spindle-trio run --help"),
        (["run", "x.py", "--palyoad", "1"], "type: --payload"),
        (["run", "x.py", "--pay", "1"], "type: --payload"),
        (["run", "x.py", "--payload"], "--payload"),
        (["run", "x.py", "--payload", "{"], """--payload '{"folder": "."}'"""),
        (["run", "x.py", "--payload", "NaN"], """--payload '"text"'"""),
        (["run", "x.py", "--payload", "[" * 100_000], "--payload"),
        (["run", "x.py", "--metadata", "7"], """--metadata '{"ticket": 7}'"""),
        (["run", "x.py", "--metadata", "{"], """--metadata '{"ticket": 7}'"""),
        (["run", "x.py", "--user", "  "], "--user ada"),
        (["run", "x.py", "--root", "nowhere"], "--root ."),
        (["run", "x.py", "--startup-timeout", "soon"], "--startup-timeout 15"),
        (["run", "x.py", "--startup-timeout", "0"], "--startup-timeout 15"),
        (["run", "x.py", "--startup-timeout", "inf"], "--startup-timeout 15"),
        (["run", "x.py", "--startup-timeout", "nan"], "--startup-timeout 15"),
        (["run", "x.py", "--heartbeat-timeout", "0"], "inf for no watchdog"),
        (["run", "x.py", "--heartbeat-timeout", "-1"], "inf for no watchdog"),
        (["run", "x.py", "--grace", "-1"], "--grace 5"),
        (["run", "x.py", "--grace", "inf"], "--grace 5"),
        (["call"], "spindle-trio call ENTRY METHOD JSON"),
        (["call", "x.py"], "spindle-trio call ENTRY METHOD JSON"),
        (["call", "x.py", ""], "spindle-trio call ENTRY METHOD JSON"),
        (["call", "x.py", "square", "{"], """'{"n": 3}'"""),
        (["call", "x.py", "square", "1", "2"], "spindle-trio call --help"),
        (["call", "x.py", "square", "--timout", "2"], "type: --timeout"),
        (["call", "x.py", "square", "--timeout", "0"], "--timeout 2.5"),
        (["call", "x.py", "square", "--timeout", "soon"], "--timeout 2.5"),
        (["doctor", "now"], "spindle-trio doctor --help"),
        (["types", "a", "b"], "spindle-trio types --help"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(
    arguments: list[str], to_type: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert to_type in printed.err


def refusal(done) -> str:
    """Check that a command was refused in one line and nothing was started, and return the line."""
    assert done.status == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "type:" in line
    return line


@pytest.fixture
def tree(folder: Path) -> Path:
    (folder / "entries").mkdir()
    (folder / "entries" / "word_index.py").write_text(FINE, encoding="utf-8")
    (folder / "notes.txt").write_text("no entry\n", encoding="utf-8")
    return folder


def test_a_misspelt_entry_gets_the_nearest_one(tree, run) -> None:
    line = refusal(run("run", "entries/word_idnex.py"))
    assert line.endswith("type: spindle-trio run entries/word_index.py")


def test_an_entry_without_its_folder_or_suffix_gets_the_whole_path(tree, run_here) -> None:
    assert refusal(run_here("run", "word_index.py")).endswith("type: spindle-trio run entries/word_index.py")
    assert refusal(run_here("run", "entries/word_index")).endswith("type: spindle-trio run entries/word_index.py")


def test_an_absolute_entry_outside_the_root_that_was_given_gets_another_root(tree, run_here) -> None:
    (tree / "elsewhere").mkdir()
    line = refusal(run_here("run", str(tree / "entries" / "word_index.py"), "--root", "elsewhere"))
    assert line.endswith(f"type: spindle-trio run --root {tree / 'entries'} word_index.py")


def test_an_entry_outside_the_root_gets_a_root(tree, run_here) -> None:
    (tree / "elsewhere").mkdir()
    line = refusal(run_here("run", "../entries/word_index.py", cwd=tree / "elsewhere"))
    assert line.endswith(f"type: spindle-trio run --root {tree / 'entries'} word_index.py")


def test_an_entry_that_links_out_of_the_root_gets_a_root(tree, run_here) -> None:
    (tree / "inner").mkdir()
    (tree / "inner" / "link.py").symlink_to(tree / "entries" / "word_index.py")
    line = refusal(run_here("run", "link.py", cwd=tree / "inner"))
    assert line.endswith(f"type: spindle-trio run --root {tree / 'entries'} word_index.py")


def test_an_entry_relative_to_here_rather_than_to_the_root_gets_the_right_one(tree, run_here) -> None:
    line = refusal(run_here("run", "entries/word_index.py", "--root", "entries"))
    assert line.endswith(f"type: spindle-trio run --root {tree / 'entries'} word_index.py")


@pytest.mark.quick(1)
@pytest.mark.parametrize("suffix", [".js", ".mjs", ".cjs"])
def test_a_misspelt_javascript_entry_gets_the_nearest_one(tree, run_here, suffix: str) -> None:
    (tree / "entries" / f"tally{suffix}").touch()
    assert refusal(run_here("run", f"entries/taly{suffix}")).endswith(f"type: spindle-trio run entries/tally{suffix}")
    assert refusal(run_here("run", "entries/tally")).endswith(f"type: spindle-trio run entries/tally{suffix}")


def test_a_javascript_entry_that_nothing_can_run_is_refused_with_what_to_install(
    tree, run_here, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "tally.js").touch()
    monkeypatch.setenv("PATH", str(tree))
    line = refusal(run_here("run", "tally.js"))
    assert "install Node 20.19 or later" in line
    assert line.endswith("type: spindle-trio doctor, to see what is missing")


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["notes.txt", "entries", "nothing_like_it.py", " ", ".", "/"])
def test_what_is_no_entry_at_all_gets_the_general_form(tree, run_here, name: str) -> None:
    assert "spindle-trio run ENTRY" in refusal(run_here("run", name))


@pytest.mark.parametrize("option", ["--payload", "--metadata"])
def test_a_value_beyond_the_limits_is_refused(tree, run_here, option: str) -> None:
    line = refusal(run_here("run", "entries/word_index.py", option, f'{{"number": {2**70}}}'))
    assert "number" in line
