"""An entry's exception in one line: with its place in the user's files, whatever its class does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from types import CodeType

import pytest
import trio

from spindle_trio.child._exit_frames import NO_WORDS, describe_error, summarise_error, system_exit_code


def error_of(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: ASYNC103  # no Trio runs here
        return error  # noqa: ASYNC104  # as above
    raise AssertionError("it raised nothing")


def compiled_as(file: str, text: str) -> Callable[[], object]:
    """Compile a function `run` as if it stood in a file."""
    names: dict[str, Callable[[], object]] = {}
    code: CodeType = compile(text, file, "exec")
    exec(code, names)
    return names["run"]


def start_what_is_not_there() -> None:
    subprocess.run(["/nonexistent/program"], check=True)


def read_what_is_no_json() -> None:
    json.loads("{")


@pytest.mark.parametrize("function", [start_what_is_not_there, read_what_is_no_json])
def test_the_place_of_an_error_in_a_library_is_the_users_own_call(function: Callable[[], object]) -> None:
    said = summarise_error(error_of(function))
    assert said.endswith(f" in {function.__name__})")
    assert "(Traceback: test_error_words.py:" in said


def test_the_place_of_an_error_in_a_members_library_is_the_users_own_call() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)

    async def read() -> None:
        await trio.lowlevel.checkpoint()
        read_what_is_no_json()

    said = summarise_error(error_of(lambda: trio.run(main)))
    assert " in read_what_is_no_json)]" in said


def test_the_users_innermost_file_counts_also_below_a_library() -> None:
    def explode(_: object) -> object:
        raise LookupError("no such book")

    assert summarise_error(error_of(lambda: json.loads("{}", object_hook=explode))).endswith(" in explode)")


@pytest.mark.parametrize(
    "file", ["/srv/.venv/lib/python3.11/site-packages/shelf.py", "/usr/lib/python3/dist-packages/shelf.py"]
)
def test_installed_packages_are_no_files_of_the_user(file: str) -> None:
    run = compiled_as(file, "def run():\n    raise LookupError('no')\n")

    def call() -> None:
        run()

    assert summarise_error(error_of(call)).endswith(" in call)")


def test_where_all_is_in_libraries_the_first_of_them_is_named() -> None:
    inner = compiled_as("/lib/site-packages/inner.py", "def run():\n    raise LookupError('no')\n")
    names: dict[str, Callable[[], object]] = {}
    exec(compile("def run():\n    inner()\n", "/lib/site-packages/outer.py", "exec"), {"inner": inner}, names)
    error = error_of(names["run"])
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # without the frame of this file
    assert summarise_error(error) == "LookupError: no (Traceback: outer.py:2 in run)"


class Text(str):
    """A text that spoils whatever is done with it."""

    __slots__ = ()

    def splitlines(self, keepends: bool = False) -> list[str]:
        raise ValueError("no lines")

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        raise ValueError("no bytes")


class SaysText(Exception):
    def __str__(self) -> str:
        return Text("the shelf\nis empty")


class CannotSpeak(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Nameless(type):
    def __getattribute__(cls, name: str) -> object:
        raise ValueError("no attributes")


class OfNameless(Exception, metaclass=Nameless):
    pass


class NoClass(Exception):
    @property
    def __class__(self) -> type:
        raise ValueError("no class")


class Code(int):
    def __and__(self, other: int) -> int:
        raise ValueError("no code")


@pytest.mark.parametrize(
    ("make_error", "words"),
    [
        (SaysText, "SaysText: the shelf | is empty"),
        (CannotSpeak, "CannotSpeak: (its message could not be made)"),
        (lambda: OfNameless("hello"), "OfNameless: hello"),
        (NoClass, NO_WORDS),
    ],
)
def test_an_error_that_resists_is_put_into_words_all_the_same(
    make_error: Callable[[], BaseException], words: str
) -> None:
    error = make_error()
    assert summarise_error(error) == words
    assert isinstance(describe_error(error), str)


def test_a_module_name_that_resists_hides_no_place() -> None:
    names: dict[str, object] = {"__name__": CannotSpeak()}
    exec(compile("def run():\n    raise ValueError('no')\n", "shelf.py", "exec"), names)
    run = names["run"]
    assert callable(run)
    assert summarise_error(error_of(run)) == "ValueError: no (Traceback: shelf.py:2 in run)"


def test_an_exit_code_that_resists_is_read_as_the_system_would() -> None:
    assert system_exit_code(SystemExit(Code(7)), lambda _: None) == 7
    assert system_exit_code(SystemExit(99999999999), lambda _: None) == 99999999999 & 0xFF
