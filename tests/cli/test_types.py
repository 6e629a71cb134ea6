"""`spindle-trio types`: the declarations for JavaScript entries, printed or in a file."""

from __future__ import annotations

from pathlib import Path

from spindle_trio.javascript import TYPES

DECLARATIONS = TYPES.read_text(encoding="utf-8")


def test_the_declarations_are_printed(run) -> None:
    done = run("types")
    assert (done.status, done.stdout, done.stderr) == (0, DECLARATIONS, "")


def test_the_declarations_are_put_into_a_file(folder: Path, run) -> None:
    done = run("types", "entry-types.d.ts")
    assert (done.status, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "entry-types.d.ts").read_text(encoding="utf-8") == DECLARATIONS


def test_in_a_folder_they_have_the_name_that_entries_import(folder: Path, run) -> None:
    (folder / "dist").mkdir()
    assert run("types", "dist").status == 0
    assert (folder / "dist" / "spindle-trio.d.ts").read_text(encoding="utf-8") == DECLARATIONS


def test_an_older_copy_is_replaced(folder: Path, run) -> None:
    (folder / "old.d.ts").write_text(DECLARATIONS.partition("\n")[0] + "\nexport type Old = 1;\n", encoding="utf-8")
    assert run("types", "old.d.ts").status == 0
    assert (folder / "old.d.ts").read_text(encoding="utf-8") == DECLARATIONS


def test_any_other_file_is_left_as_it_is(folder: Path, run) -> None:
    (folder / "indexer.js").write_text("export function run() {}\n", encoding="utf-8")
    done = run("types", "indexer.js")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "spindle-trio types: indexer.js exists but is not a declaration file: left as it is; type: "
    )
    assert len(done.stderr.splitlines()) == 1
    assert (folder / "indexer.js").read_text(encoding="utf-8") == "export function run() {}\n"


def test_a_place_that_does_not_exist_is_told_in_one_line(run) -> None:
    done = run("types", "nowhere/types.d.ts")
    assert (done.status, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "nowhere/types.d.ts cannot be written: No such file or directory" in line
