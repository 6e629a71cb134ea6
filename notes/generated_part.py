"""The part of a page that a script beside it writes; for `state_diagram.py` and `service_diagram.py`."""

from __future__ import annotations

import sys
from pathlib import Path

END = "<!-- end of the state diagram -->"


def keep_up_to_date(name: str, begin: str, part: str, arguments: list[str]) -> int:
    """Write the part of a page between two marks anew, and return an exit status.

    Args:
        name: of the page, beside this file.
        begin: the mark before the part.
        part: what is to stand there.
        arguments: of the script; with ``--check`` nothing is written, and 1 is returned if the page is out of date.
    """
    file = Path(__file__).parent / name
    page = file.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(END)
    wanted = f"{before}{begin}\n\n{part}\n\n{END}{after}"
    if page == wanted:
        return 0
    if "--check" in arguments:
        print(f"{name} is out of date; type: python notes/{Path(sys.argv[0]).name}", file=sys.stderr)
        return 1
    file.write_text(wanted, encoding="utf-8")
    return 0
