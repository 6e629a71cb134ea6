"""An entry: index the words of all text files below a folder.

    spindle-trio run notes/examples/word_index.py --payload '{"folder": "."}'

The payload names the folder, relative to the worker's root. The entry beats once a file, sends its progress, and
completes with the counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import trio

from spindle_trio import JsonValue
from spindle_trio.child import ProcessContext

LARGEST_FILE = 512 * 1024
"""Bytes. Longer files are data, more often than not."""
REPORT_EVERY = 50
"""Files between two messages."""
PASSED_OVER = {"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"}
WORD = re.compile(r"[^\W\d_]+")


async def run(process: ProcessContext) -> JsonValue:
    folder = folder_of(process.payload)
    files = sorted(text_files(folder))
    process.ready()
    words: Counter[str] = Counter()
    indexed = 0
    for number, path in enumerate(files, start=1):
        text = await read_text(path)
        if text is not None:
            words.update(match.group().lower() for match in WORD.finditer(text))
            indexed += 1
        process.heartbeat()
        if number % REPORT_EVERY == 0 or number == len(files):
            await process.send({"done": number, "of": len(files), "distinct": len(words)})
    most = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:5]
    return {
        "files": indexed,
        "words": words.total(),
        "distinct": len(words),
        "most": [[word, count] for word, count in most],
    }


def folder_of(payload: JsonValue) -> Path:
    """Find the folder that the payload names; an exception raised here is how the process says no."""
    name = payload.get("folder") if isinstance(payload, dict) else None
    if not isinstance(name, str):
        raise ValueError("""word_index wants a payload such as {"folder": "."}""")
    folder = Path(name)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {name!r} below {Path.cwd()}")
    return folder


def text_files(folder: Path) -> Iterator[Path]:
    """Walk a folder, but not what is hidden, installed or built."""
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in PASSED_OVER or path.is_symlink():
            continue
        if path.is_dir():
            if not (path / "pyvenv.cfg").exists():
                yield from text_files(path)
        elif path.is_file() and path.stat().st_size <= LARGEST_FILE:
            yield path


async def read_text(path: Path) -> str | None:
    """Read a file without holding up the event loop; `None` if it holds no text."""
    try:
        content = await trio.Path(path).read_bytes()
    except OSError:
        return None  # gone since, or not ours to read
    if b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
