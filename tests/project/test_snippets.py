"""Every snippet of README and notes runs as a user would copy it.

A block of code begins with a comment that names its file, and the files of a page are written into one fresh folder.
A block ``sh`` is run there; a block ``text`` right after it is what it prints, where ``…`` stands for anything. What is
only to be looked at is ``text`` too. Commands for a clone of the repository are ``sh clone``: nothing runs these.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.javascript import needs_node

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "notes").rglob("*.md"))]
GUARD_SECONDS = 60

FILES = {"python": "#", "toml": "#", "js": "//", "ts": "//"}
"""The kinds of blocks that are files, with the sign of their comments."""

SHOWN = {"text", "mermaid", "sh clone"}
"""Blocks that nothing runs."""

VECTORS = {"notes/protocol.md"}
"""Pages whose other blocks a test of their own reads: `test_protocol_page.py`."""

needs_typescript = pytest.mark.skipif(shutil.which("tsc") is None, reason="this needs tsc, which is not on the PATH")

PRELUDE = """
set -eu
python() { "$PYTHON" "$@"; }
pytest() { python -m pytest "$@"; }
spindle-trio() { python -m spindle_trio "$@"; }
"""
"""Has a command run in the environment of this test, however that was started."""


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    text: str
    after: str
    """The text between the previous block and this one."""

    @property
    def file(self) -> str | None:
        """The path that the first comment names; `None` for what is no file."""
        sign = FILES.get(self.kind)
        if sign is None:
            return None
        first = re.match(rf"{sign} (\S+\.\w+)\n", self.text)
        assert first, f"a block of {self.kind} begins with `{sign} its/path`, or is marked as text:\n{self.text}"
        return first[1]


def blocks_of(page: Path) -> list[Block]:
    text, end, found = page.read_text(encoding="utf-8"), 0, []
    for match in re.finditer(r"^```(.*)\n((?:(?!```).*\n)*?)```$", text, re.MULTILINE):
        found.append(Block(match[1], match[2], text[end : match.start()]))
        end = match.end()
    assert len(found) * 2 == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{page.name}: a fence is left open"
    return found


BLOCKS = {page.relative_to(ROOT).as_posix(): blocks_of(page) for page in PAGES}


PEERS = ("pebble", "trio_parallel")
"""Modules of the extra `bench` that snippets import, to show what to write instead."""


def missing_peers(page: str, script: str) -> list[str]:
    """List the peers that the files of a script import, and that are not installed."""
    texts = [block.text for block in BLOCKS[page] if block.file is not None and block.file in script]
    found = re.findall(rf"^(?:import|from) ({'|'.join(PEERS)})\b", "".join(texts), re.MULTILINE)
    return [name for name in found if importlib.util.find_spec(name) is None]


def commands() -> Iterator[object]:
    """List each block of commands, with what it is to print."""
    for page, blocks in BLOCKS.items():
        for number, (block, following) in enumerate(zip(blocks, [*blocks[1:], None], strict=False)):
            if block.kind != "sh":
                continue
            shown = following and following.kind == "text" and not following.after.strip()
            expected = following.text if following is not None and shown else None
            marks = [needs_node] if re.search(r"\.[cm]?js\b", block.text) else []
            if re.search(r"^tsc ", block.text, re.MULTILINE):
                marks.append(needs_typescript)
            peers = missing_peers(page, block.text)
            marks += (
                [pytest.mark.skipif(True, reason=f"{peers} of the extra `bench` are not installed")] if peers else []
            )
            yield pytest.param(page, block.text, expected, marks=marks, id=f"{page}-{number}")


def write_files(page: str, folder: Path) -> list[Path]:
    """Write the files of a page as its reader would."""
    written = []
    for block in BLOCKS[page]:
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            written.append(path)
    assert len(set(written)) == len(written), f"{page} names a file twice"
    return written


@pytest.mark.parametrize(("page", "script", "expected"), list(commands()))
def test_each_command_of_a_page_does_what_the_page_says(
    tmp_path: Path, page: str, script: str, expected: str | None
) -> None:
    write_files(page, tmp_path)
    done = subprocess.run(
        ["bash", "-c", PRELUDE + script],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=GUARD_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    if expected is not None:
        pattern = ".*".join(re.escape(part) for part in expected.split("…"))
        assert re.fullmatch(pattern, done.stdout, re.DOTALL), f"expected:\n{expected}\nprinted:\n{done.stdout}"


@pytest.mark.parametrize("page", BLOCKS)
def test_each_file_of_a_page_is_used_by_its_commands(page: str) -> None:
    """So nothing is shown that nobody has run: a file is named by a command, or by a file that is."""
    files = {block.file: block.text for block in BLOCKS[page] if block.file is not None}
    reached = "".join(block.text for block in BLOCKS[page] if block.kind == "sh")
    if re.search(r"^pytest( -q)?$", reached, re.MULTILINE):  # it finds tests and settings itself
        reached += " ".join(["", "pyproject.toml", *(file for file in files if file.startswith("test_"))])
    left = set(files)
    while named := {file for file in left if re.search(_mention_of(file), reached)}:
        left -= named
        reached += "".join(files[file].partition("\n")[2] for file in named)
    assert not left


def _mention_of(file: str) -> str:
    path = Path(file)
    return rf"\b{re.escape(path.name)}\b|(?m:^(?:from|import) {re.escape(path.stem)}\b)"


@pytest.mark.parametrize("page", [page for page in BLOCKS if page not in VECTORS])
def test_each_block_is_run_or_marked_as_something_to_look_at(page: str) -> None:
    assert {block.kind for block in BLOCKS[page]} <= {*FILES, *SHOWN, "sh"}


def test_the_commands_for_a_clone_name_files_that_exist() -> None:
    blocks = [block.text for blocks in BLOCKS.values() for block in blocks if block.kind == "sh clone"]
    named = set(re.findall(r"(?<!\S)((?:\.ci|tests|notes|benchmarks)/[\w./]*)", "".join(blocks)))
    assert named
    assert all((ROOT / path).exists() for path in named), named
