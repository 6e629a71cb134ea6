"""`spindle-trio types`: prints the type declarations for JavaScript entries, or writes them for an editor."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spindle_trio.cli._options import EXIT_REFUSED
from spindle_trio.cli._printing import complain, print_out
from spindle_trio.javascript import TYPES

_EXIT_FAILED: Final = 1


def types(file: Path | None) -> int:
    """Print the declarations, or write them, and return the command's exit status.

    Args:
        file: a file or a folder; only an older copy there is replaced. `None` to print them.
    """
    text = TYPES.read_text(encoding="utf-8")
    if file is None:
        return print_out(text)
    if file.is_dir():
        file /= TYPES.name
    try:
        if file.exists() and not _is_copy(file, text):
            complain(
                f"{file} exists but is not a declaration file: left as it is; type: spindle-trio types ANOTHER_FILE",
                "types",
            )
            return EXIT_REFUSED
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        complain(f"{file} cannot be written: {error.strerror}; type: spindle-trio types ANOTHER_FILE", "types")
        return _EXIT_FAILED
    return 0


def _is_copy(file: Path, text: str) -> bool:
    """Whether a file begins like the declarations of any version."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline() == text.partition("\n")[0] + "\n"
