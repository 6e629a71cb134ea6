"""`help()` of every public name is complete: what stands beside a field in the source is in the help of its class."""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
import textwrap
from collections.abc import Iterator

import pytest

import spindle_trio

MODULES = ("spindle_trio", "spindle_trio.abc", "spindle_trio.child", "spindle_trio.testing", "spindle_trio.wire")
NAMES = [f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__]


def named(path: str) -> object:
    module, _, name = path.rpartition(".")
    found: object = getattr(importlib.import_module(module), name)
    return found


def help_of(value: object) -> str:
    """Render the help of something as one line, without the margins of `pydoc`."""
    text = pydoc.plain(pydoc.render_doc(value))
    return " ".join(" ".join(line.strip(" |") for line in text.splitlines()).split())


CLASSES = [path for path in NAMES if inspect.isclass(named(path))]


def attributes_in_source(kind: type) -> Iterator[tuple[str, str | None]]:
    """List each public attribute that a class, or a base of it here, declares, with what the source says of it."""
    for base in kind.__mro__:
        if not base.__module__.startswith("spindle_trio"):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        blocks = [
            body.body,
            *(node.body for node in body.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"),
        ]
        for block in blocks:
            for node, after in zip(block, [*block[1:], None], strict=True):
                said = None
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    said = str(after.value.value)
                target = node.target if isinstance(node, ast.AnnAssign) else None
                if isinstance(node, ast.Assign):
                    (target,) = node.targets if len(node.targets) == 1 else (None,)
                if isinstance(target, ast.Attribute):
                    name = target.attr
                elif isinstance(target, ast.Name) and block is body.body:
                    name = target.id
                else:
                    continue
                if not name.startswith("_"):
                    yield name, said


@pytest.mark.slow
@pytest.mark.parametrize("path", CLASSES)
def test_help_tells_the_meaning_of_each_attribute(path: str) -> None:
    kind = named(path)
    assert isinstance(kind, type)
    shown = help_of(kind)
    for name, said in attributes_in_source(kind):
        assert name in shown, f"{path}.{name} is not in its help"
        if said is not None:
            assert " ".join(said.split()) in shown, f"the meaning of {path}.{name} is not in its help"


@pytest.mark.parametrize("path", CLASSES)
def test_each_method_and_property_of_a_public_class_is_described(path: str) -> None:
    kind = named(path)
    assert isinstance(kind, type)
    assert inspect.getdoc(kind)
    for name in dir(kind):
        value = inspect.getattr_static(kind, name)
        if name.startswith("_") or not (inspect.isroutine(value) or isinstance(value, property)):
            continue
        assert inspect.getdoc(getattr(kind, name)), f"{path}.{name} is not described"


@pytest.mark.parametrize("path", [path for path in NAMES if inspect.isroutine(named(path))])
def test_each_public_function_is_described(path: str) -> None:
    assert inspect.getdoc(named(path))


def test_help_names_what_a_host_launches_with_by_default() -> None:
    assert "by default a `DefaultLauncher`" in help_of(named("spindle_trio.open_host"))


def test_help_of_a_worker_has_its_processes() -> None:
    assert "backend_processes" in help_of(named("spindle_trio.Worker"))


def test_the_signature_of_open_host_is_short_enough_to_read() -> None:
    signature = str(inspect.signature(spindle_trio.open_host))
    assert " at 0x" not in signature
    assert "limits: 'Limits' = Limits()," in signature
