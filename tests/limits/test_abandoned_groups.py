"""Groups of limits that a killed program has left are removed by the next launcher; those of a live one stay."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from spindle_trio.launchers._local import _limit_groups


def test_only_groups_whose_program_is_gone_are_removed(tmp_path: Path) -> None:
    left, live, other = (tmp_path / name for name in ("spindle-trio-limits-1-aa", "spindle-trio-limits-2-bb", "other"))
    for folder in (left / "1", live / "1", other):
        folder.mkdir(parents=True)
    lock = os.open(live, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _limit_groups._remove_abandoned(str(tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "spindle-trio-limits-2-bb"]
        assert (live / "1").is_dir()
    finally:
        os.close(lock)
