"""Which files an entry may name, and what is said about all others."""

from __future__ import annotations

from pathlib import Path

import pytest

from spindle_trio._errors import EntryError
from spindle_trio.launchers._entry_path import resolve_entry


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "dist" / "deep").mkdir(parents=True)
    (root / "dist" / "entry.py").touch()
    (root / "dist" / "folder.py").mkdir()
    (root / "dist" / "upper.PY").touch()
    (root / "dist" / "none").touch()
    (tmp_path / "outside.py").touch()
    (root / "inside.py").symlink_to("dist/entry.py")
    (root / "climbing.py").symlink_to("../outside.py")
    (root / "absolute.py").symlink_to(tmp_path / "outside.py")
    (root / "up").symlink_to("..")
    (root / "loop.py").symlink_to("loop.py")
    (root / "dangling.py").symlink_to("nowhere.py")
    return root


@pytest.mark.parametrize(
    "entry",
    ["dist/entry.py", "  dist\\entry.py ", "./dist/entry.py", "dist//entry.py", "dist/./entry.py", "dist/entry.py/"],
)
def test_a_file_under_the_root_is_accepted_under_one_name(root: Path, entry: str) -> None:
    resolved = resolve_entry(entry, root, (".py",))
    assert resolved.entry == "dist/entry.py"
    assert resolved.path == root.resolve() / "dist" / "entry.py"


def test_a_link_that_stays_inside_keeps_its_name_and_runs_what_it_links_to(root: Path) -> None:
    resolved = resolve_entry("inside.py", root, (".py",))
    assert (resolved.entry, resolved.path) == ("inside.py", root.resolve() / "dist" / "entry.py")


def test_a_root_that_is_itself_a_link_is_no_way_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert resolve_entry("dist/entry.py", tmp_path / "link", (".py",)).path == root.resolve() / "dist" / "entry.py"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("", "is blank"),
        ("   ", "is blank"),
        ("/etc/passwd.py", "is an absolute path"),
        ("\\\\server\\share.py", "is an absolute path"),
        ("C:\\entry.py", "is an absolute path"),
        ("../outside.py", r"climbs through '\.\.'"),
        ("dist/../dist/entry.py", r"climbs through '\.\.'"),
        ("dist\\..\\..\\outside.py", r"climbs through '\.\.'"),
        (".", "is the root itself"),
        ("dist/entry\0.py", "contains characters that no file name may contain"),
        ("dist/\ud800.py", "contains characters that no file name may contain"),
        ("dist/missing.py", "there is no file"),
        ("dangling.py", "there is no file"),
        ("dist/entry.py/x.py", "cannot be used: Not a directory"),
        ("x" * 5000 + ".py", "cannot be used: File name too long"),
        ("loop.py", "cannot be used"),
        ("dist/folder.py", "is a folder"),
        ("dist/upper.PY", r"has the suffix \.PY; this launcher runs files whose names end in \.py"),
        ("dist/none", r"has no suffix; this launcher runs files whose names end in \.py"),
        ("dist/.py", "has no suffix"),
        ("climbing.py", "links out of the root"),
        ("absolute.py", "links out of the root"),
        ("up/outside.py", "links out of the root"),
    ],
)
def test_anything_else_is_refused_with_the_entry_the_root_and_what_would_be_right(
    root: Path, entry: str, problem: str
) -> None:
    with pytest.raises(EntryError, match=problem):
        resolve_entry(entry, root, (".py",))


def test_a_root_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EntryError, match=r"the root '.*gone' of the entry 'entry.py' cannot be used: No such file"):
        resolve_entry("entry.py", tmp_path / "gone", (".py",))


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_root_that_no_folder_can_be_called_is_refused_as_one_that_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(EntryError, match="root"):
        resolve_entry("entry.py", tmp_path / name, (".py",))


def test_several_suffixes_are_named(root: Path) -> None:
    with pytest.raises(EntryError, match=r"end in \.py or \.pyw"):
        resolve_entry("dist/none", root, (".py", ".pyw"))


def test_a_device_is_no_entry(root: Path) -> None:
    import os

    os.mkfifo(root / "pipe.py")
    with pytest.raises(EntryError, match="is not a regular file"):
        resolve_entry("pipe.py", root, (".py",))
