"""Measure what spindle_trio costs, against its peers and against the least that the operating system demands.

    python benchmarks/run.py [--quick] [--json FILE] [--plots DIR] [NAME ...]

This file is short on purpose: multiprocessing, trio-parallel and anyio run the main module again in their children, and
a peer's child should do as little as ours.
"""

if __name__ == "__main__":
    import sys

    from bench.command import main

    sys.exit(main())
