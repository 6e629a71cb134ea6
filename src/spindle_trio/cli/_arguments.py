"""What may be typed for each argument of `spindle-trio`: readers for `argparse`, whose errors show what to type."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import attrs

if TYPE_CHECKING:
    from spindle_trio import JsonValue

_STDIN: Final = 0
_UNITS: Final = ("K", "M", "G", "T")
_SHOWN: Final = 60
"""Characters of a wrong argument."""


@attrs.frozen
class Given:
    """Distinguishes `--payload null` from no `--payload`."""

    value: JsonValue


def folder(text: str) -> Path:
    """Read the path of a folder that exists, and make it absolute."""
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"wants a folder that exists, such as --root . (there is no folder {text!r})")
    return folder.absolute()


def payload(text: str) -> Given:
    """Read a JSON value."""
    try:
        return Given(parse_json(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"""wants JSON, such as --payload '{{"folder": "."}}' or --payload '"text"', not {_cut(text)} ({error})"""
        ) from None


def argument(text: str) -> JsonValue:
    """Read a JSON value: of the text, or of standard input if that is `-`."""
    given = text
    try:
        if text == "-":
            with open(_STDIN, encoding="utf-8", closefd=False) as stdin:
                given = stdin.read()
        return parse_json(given)
    except (ValueError, OSError) as error:
        where = " on standard input" if text == "-" else ""
        got = f", not {_cut(given)}" if given != "-" else ""
        raise argparse.ArgumentTypeError(
            f"""wants JSON{where}, such as '{{"n": 3}}' or '"text"'{got} ({error})"""
        ) from None


def method(text: str) -> str:
    """Read a name that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("wants the name of a method, such as square")
    return text


def metadata(text: str) -> dict[str, JsonValue]:
    """Read a JSON object."""
    try:
        value = parse_json(text)
    except ValueError as error:
        value = str(error)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("""wants a JSON object, such as --metadata '{"ticket": 7}'""")
    return value


def failures(text: str) -> int:
    """Read a number of failures."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wants a number above 0, such as --give-up-after 8, not {text!r}")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """Read names of services, with commas between them."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"wants names of services, such as --only db,api, not {text!r}")
    return names


def user(text: str) -> str:
    """Read a name that is not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("wants a name that is not blank, such as --user ada")
    return text


def timeout(text: str) -> float:
    """Read seconds above 0, or `inf`."""
    seconds = _number(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"wants seconds above 0, such as --timeout 2.5, not {text!r}")
    return seconds


def startup_timeout(text: str) -> float:
    """Read seconds above 0."""
    seconds = _number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"wants seconds above 0, such as --startup-timeout 15, not {text!r}")
    return seconds


def heartbeat_timeout(text: str) -> float:
    """Read seconds above 0, or `inf`."""
    seconds = _number(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(
            f"wants seconds above 0, such as --heartbeat-timeout 15, or inf for no watchdog, not {text!r}"
        )
    return seconds


def grace(text: str) -> float:
    """Read seconds, 0 or more."""
    seconds = _number(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"wants seconds, such as --grace 5, not {text!r}")
    return seconds


def size(text: str) -> int:
    """Read a number of bytes, with K, M, G or T for powers of 1024."""
    try:
        return bytes_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants a size, such as --memory 512M, not {text!r}") from None


def bytes_of(text: str) -> int:
    """Read a size such as ``512M``.

    Raises:
        ValueError: it is none, or below 1.
    """
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].upper() in _UNITS else (text, "")
    amount = float(number) * 1024 ** (_UNITS.index(unit) + 1 if unit else 0)
    if not 1 <= amount < math.inf:
        raise ValueError(text)
    return int(amount)


def count(text: str) -> int:
    """Read a number of processes."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wants a number above 0, such as --pids 64, not {text!r}")
    return int(text)


def cpus(text: str) -> float:
    """Read a number of processors."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"wants a number above 0, such as --cpus 1.5, not {text!r}")
    return number


def run_time(text: str) -> float:
    """Read seconds above 0."""
    seconds = _number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"wants seconds above 0, such as --time 30, not {text!r}")
    return seconds


def path(text: str) -> str:
    """Read the path of a file or folder that exists, and make it absolute, without links."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"wants a file or folder that exists (there is no {text!r})")
    return str(path.resolve())


def variable(text: str) -> tuple[str, str]:
    """Read NAME=VALUE, or the NAME of a variable of this program."""
    name, equals, value = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"wants NAME=VALUE, or the NAME of a variable to pass on, not {text!r}")
    if not equals:
        if name not in os.environ:
            raise argparse.ArgumentTypeError(f"wants NAME=VALUE, or the NAME of a variable; there is no {name}")
        value = os.environ[name]
    return name, value


def _cut(text: str) -> str:
    """Show the beginning of what was typed."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _number(text: str) -> float:
    """Read a number. Anything else becomes NaN, which no range contains."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def parse_json(text: str) -> JsonValue:
    """Read JSON in the strict sense, without NaN and the infinities.

    Raises:
        ValueError: it is no JSON, or nested too deeply to read.
    """
    try:
        value: JsonValue = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
