"""Look for bytes that the host reads wrongly, guided by which code they reach; or replay a scenario of the tests.

    pip install -e '.[fuzz]'
    python tests/reliability/fuzz_wire.py                      # until Ctrl-C, or the first finding
    python tests/reliability/fuzz_wire.py -max_total_time=600  # and whatever else libFuzzer takes
    python tests/reliability/fuzz_wire.py crash-…              # a finding again
    python tests/reliability/fuzz_wire.py --seed 1108          # what a test has named, on all lanes; needs no atheris

The first byte of an input chooses the lane and how the rest is cut into reads. What should come of it is worked out
with the standard library alone, as in the tests.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from spindle_trio._protocol._frames import with_header
from support.wire import Lane, Scenario, traffic
from support.wire_judge import judge

LANES: tuple[Lane, ...] = ("control", "messages", "calls")
INSTALL = "fuzz_wire.py: needs atheris, which is not installed: pip install -e '.[fuzz]'"


class Input(Scenario):
    """The input of the fuzzer, as a scenario."""

    def __init__(self, data: bytes) -> None:
        choice = data[0] if data else 0
        self.seed = choice
        self.lane = LANES[choice % 3]
        self.stream = data[1:]
        self._random = random.Random(choice)


def main(arguments: list[str]) -> int:
    """Replay or fuzz, and return the exit status."""
    parser = argparse.ArgumentParser(prog="fuzz_wire.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, action="append", default=[], metavar="N", help="replay this scenario")
    options, others = parser.parse_known_args(arguments)
    for seed in options.seed:
        for lane in LANES:
            print(lane, seed, dict(judge(Scenario(seed, lane, traffic()))))
    return 0 if options.seed else fuzz(others)


def fuzz(arguments: list[str]) -> int:
    """Let atheris try inputs, beginning with real traffic. It ends the program itself."""
    try:
        import atheris  # an extra of its own
    except ImportError:
        print(INSTALL, file=sys.stderr)
        return 2
    recorded = traffic()
    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as corpus:
        if all(argument.startswith("-") for argument in arguments):
            for lane, bodies in enumerate((recorded.control, recorded.messages, recorded.calls)):
                for number, body in enumerate(bodies):
                    Path(corpus, f"{lane} {number}").write_bytes(bytes([lane]) + with_header(body))
            arguments = [*arguments, corpus]
        atheris.Setup([sys.argv[0], *arguments], lambda data: judge(Input(data)) and None)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
