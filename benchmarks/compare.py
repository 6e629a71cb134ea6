"""Compare two revisions of spindle_trio, sample by sample, in one run.

    python benchmarks/compare.py [--quick] [--samples N] REV_A REV_B ROW [ROW ...]

A revision is anything that git can name, or a folder with a checkout. A process of its own measures each. The two take
turns with every sample, so that both meet the same conditions; while one measures, the other waits.
"""

if __name__ == "__main__":
    import sys

    from bench.comparing import main

    sys.exit(main())
