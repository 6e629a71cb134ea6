"""The start of each Python process of this library. A launcher runs this file by its path.

Its arguments are

    NAME        for `ps`: the entry, or what this process is
    PARENT      the pid of the process that starts it
    MODULE      the module whose `main` to call
    NUMBER …    descriptors, the arguments of `main`

Until the process is protected against the death of its parent, it imports only what that protection needs. The guard
at the end is for `multiprocessing`, which loads the main module again in processes that an entry starts.
"""

from __future__ import annotations

import os
import sys


def _main() -> None:
    if len(sys.argv) < 4:
        sys.exit("spindle_trio.child is started by a launcher; to run an entry, use: spindle-trio run ENTRY")
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # lean
    # The host's own copy of this package, whatever else is installed. Its folder is first for this one import alone,
    # which needs nothing else: for any longer, what lies beside the package could hide modules of the standard library.
    sys.path.insert(0, home)
    import spindle_trio  # noqa: F401  # the import system finds its modules beside it from here on

    del sys.path[0]
    if home not in sys.path:
        sys.path.append(home)

    from spindle_trio._linux._parent_death import die_with_parent

    die_with_parent(int(sys.argv[2]), explain=True)

    module = __import__(sys.argv[3], fromlist=["main"])
    module.main(*map(int, sys.argv[4:]))


if __name__ == "__main__":
    _main()
