"""The project's pages are up to date, and speak of the project alone."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def project_files() -> list[Path]:
    """List the project's own text files: those that git knows, or without git all but what is built."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        paths = [path for folder in ("src", "tests", "notes", ".ci") for path in (ROOT / folder).rglob("*")]
    return [path for path in paths if path.is_file() and path.suffix not in {".pyc", ".jsonl"}]


@pytest.mark.parametrize("name", ["state_diagram.py", "service_diagram.py"])
def test_the_state_diagram_is_that_of_the_table(name: str) -> None:
    script = ROOT / "notes" / name
    check = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False, timeout=60)
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize(
    "command",
    [
        "python3 -m venv .venv && .venv/bin/pip install . && "
        """.venv/bin/spindle-trio run notes/examples/word_index.py --payload '{"folder": "."}'""",
        ".venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ],
)
def test_the_readme_shows_each_of_the_two_commands_on_a_line(command: str) -> None:
    assert command in README.splitlines()


def test_ci_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert """"$venv"/bin/pip install '.[test]' && "$venv"/bin/pytest""" in script


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "notes").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_file_names_a_machine() -> None:
    """A path of somebody's home or checkout works for that one person alone."""
    homes = "|".join(re.escape(text) for text in {f"{Path.home()}/", f"{ROOT}/"} if len(text) > 2)
    machine = re.compile(rf"{homes}|https?://[a-z0-9.-]*(?:py[p]i|n[p]m|deb[i]an)[a-z0-9.-]*")
    for path in project_files():
        found = machine.search(path.read_text(encoding="utf-8", errors="replace"))
        assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]}"


def test_no_file_has_the_marks_of_a_conflict() -> None:
    marks = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
    for path in project_files():
        found = marks.search(path.read_text(encoding="utf-8", errors="replace"))
        assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]}"


def test_no_two_decisions_have_the_same_number() -> None:
    pages = [path.name for path in (ROOT / "notes" / "decisions").glob("*.md")]
    assert all(re.fullmatch(r"\d{3}-[a-z0-9-]+\.md", name) for name in pages), pages
    assert len({name[:3] for name in pages}) == len(pages)


def test_every_test_that_a_page_names_exists() -> None:
    page = (ROOT / "notes" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert named
    present: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        present |= set(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
    assert not named - present


def parameters() -> dict[str, set[str]]:
    """Map the name of each public callable, methods included, to the names of its parameters."""
    found: dict[str, set[str]] = {}
    for module in map(importlib.import_module, ("spindle_trio", "spindle_trio.child", "spindle_trio.testing")):
        for name in module.__all__:
            value = getattr(module, name)
            members = inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else []
            for called, function in [(name, value), *members]:
                if inspect.isfunction(function) or (inspect.isclass(function) and "__init__" in vars(function)):
                    found.setdefault(called, set()).update(inspect.signature(function).parameters)
    return found


def test_every_argument_that_a_page_names_exists() -> None:
    known, named = parameters(), set()
    for page in [ROOT / "README.md", *(ROOT / "notes").glob("*.md")]:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`([^`\n]+)`", prose):
            for name, arguments in re.findall(r"(\w+)\(([^()]*)\)", code):
                named |= {(page.name, name, argument) for argument in re.findall(r"(\w+)=", arguments)}
    assert named
    assert not {(page, name, argument) for page, name, argument in named if argument not in known.get(name, set())}
