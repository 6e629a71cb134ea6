"""Promises about the package itself: lazy, lean, layered, and truly described."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import spindle_trio

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "spindle_trio"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LAYERS = PROJECT["tool"]["importlinter"]["contracts"][0]


def modules_loaded_by(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter, and list what it has loaded."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(shown.stdout.split())


def test_importing_the_package_loads_nothing_of_it() -> None:
    """An entry's import of `spindle_trio.child` passes through the package, and pays for nothing there."""
    loaded = modules_loaded_by("import spindle_trio")
    assert {name for name in loaded if name.startswith("spindle_trio")} == {"spindle_trio"}
    assert not loaded & {"trio", "attrs", "attr", "cattrs", "outcome", "json", "logging", "asyncio"}


@pytest.mark.parametrize("name", ["BlockingProcessContext", "ProcessContext", "StopNotice"])
def test_an_entrys_import_loads_no_host_module(name: str) -> None:
    loaded = modules_loaded_by(f"from spindle_trio.child import {name}")
    of_the_host = {
        module
        for module in loaded
        if module.startswith("spindle_trio.") and not module.startswith("spindle_trio.child")
    } - {
        "spindle_trio._errors",
        "spindle_trio._linux",
        "spindle_trio._linux._shared_page",
        "spindle_trio._protocol",
        "spindle_trio._protocol._frames",
        "spindle_trio._protocol._json_text",
        "spindle_trio._protocol._payload",
    }
    assert not of_the_host
    assert not loaded & {"attrs", "attr", "cattrs"}


def test_a_blocking_entrys_import_loads_no_trio() -> None:
    assert "trio" not in modules_loaded_by("from spindle_trio.child import BlockingProcessContext")


SPAWNS_AN_ENTRY = """
import trio, spindle_trio
from spindle_trio.testing import MemoryLauncher

async def echo(process):
    process.ready()
    await process.send(await process.messages().receive())

async def main():
    launchers = MemoryLauncher({"echo": echo}), spindle_trio.DefaultLauncher()
    async with (
        spindle_trio.open_host(launchers[0]) as host,
        host.open_worker("tests", user_id="ada") as worker,
        worker.backend_processes.open("echo", environment={"A": "1"}) as handle,
    ):
        await handle.send(1)
        await handle.messages().receive()

trio.run(main)
"""


def test_a_host_whose_workers_run_no_commands_loads_nothing_for_them() -> None:
    loaded = modules_loaded_by(f"exec({SPAWNS_AN_ENTRY!r})")
    assert "spindle_trio._host._spawn_request" in loaded
    assert not {name for name in loaded if "command" in name and name != "spindle_trio._linux._command_line"}
    assert not {name for name in loaded if "_programs" in name or name.startswith("spindle_trio.program")}


def test_a_host_whose_processes_have_no_sandbox_loads_nothing_for_them() -> None:
    loaded = modules_loaded_by(f"exec({SPAWNS_AN_ENTRY!r})")
    parts = ("sandbox", "landlock", "seccomp", "capabilities", "confine", "denials", "private_folders")
    assert not {name for name in loaded if any(part in name for part in parts)}


@pytest.mark.parametrize("name", spindle_trio.__all__)
def test_each_public_name_exists(name: str) -> None:
    assert getattr(spindle_trio, name) is not None
    assert name in dir(spindle_trio)


def test_type_checkers_see_the_names_that_exist_at_run_time() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == spindle_trio._HOMES
    assert set(spindle_trio.__all__) == {*seen, "__version__"}


def test_every_exception_of_the_library_is_public() -> None:
    errors = importlib.import_module("spindle_trio._errors")
    assert {name for name in vars(errors) if name.endswith("Error")} <= set(spindle_trio.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'open_hose'"):
        _ = spindle_trio.open_hose  # type: ignore[attr-defined]  # the point of the test


def test_the_version_is_the_projects() -> None:
    assert spindle_trio.__version__ == PROJECT["project"]["version"]


def layer_names() -> list[str]:
    return [name.strip(" ()") for layer in LAYERS["layers"] for name in layer.replace(":", "|").split("|")]


def test_every_module_is_in_a_layer() -> None:
    """import-linter checks the same, but this also fails without the lint tools."""
    present = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(layer_names()) == sorted(present - {"__init__", "__pycache__"})


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """List the modules of the package that a module names in an import, at any place, also for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            others = len(submodules) < len(node.names)
            found |= submodules | ({node.module} if others else set())
    return found & modules


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Neither at run time nor for type checkers: what is in a circle can only be understood all at once."""
    names = {
        ".".join(("spindle_trio", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    left = {name: imports_of(path, set(names)) - {name} for name, path in names.items()}
    while free := {name for name, imported in left.items() if not imported & set(left)}:
        left = {name: imported for name, imported in left.items() if name not in free}
    # Who only leads into a circle is in none.
    while (used := set().union(*left.values())) and (ends := set(left) - used):
        left = {name: imported & set(left) for name, imported in left.items() if name not in ends}
    assert not {name: sorted(imported & set(left)) for name, imported in left.items()}


def test_the_front_door_has_few_private_modules() -> None:
    assert len(list(PACKAGE.glob("_[a-z]*.py"))) <= 9


def test_every_room_says_what_belongs_there() -> None:
    for room in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(room.read_text(encoding="utf-8"))), room


def test_the_design_page_names_every_room() -> None:
    page = (ROOT / "notes" / "design.md").read_text(encoding="utf-8")
    for name in layer_names():
        assert f"`{name}.py`" in page or f"`{name}/`" in page, name


def test_no_source_file_is_too_long() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path


def test_the_type_marker_is_shipped() -> None:
    assert (Path(spindle_trio.__file__).parent / "py.typed").exists()
