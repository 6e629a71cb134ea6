"""What holds for every test."""

from __future__ import annotations

import collections
import gc
import os
import signal

import pytest
import trio
from hypothesis import HealthCheck, settings

from support.leftovers import no_survivors, nothing_left
from support.skips import pytest_runtest_call

__all__ = ["no_survivors", "nothing_left", "pytest_runtest_call"]

# A shell starts what it runs in the background with Ctrl-C ignored, and whatever that starts inherits it. The tests of
# Ctrl-C are about programs that people run in the foreground.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples are counted, not timed: a machine that is busy with something else makes no test fail.
settings.register_profile("spindle_trio", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("spindle_trio")

# The quick suite tries fewer; `-m "slow or not slow"` has the usual number.
settings.register_profile("quick", settings.get_profile("spindle_trio"), max_examples=40)

# What the soak runs instead; machines also take more steps. Machines and lists of commands have twins for it, with the
# marker `soak`.
settings.register_profile("soak", settings.get_profile("spindle_trio"), max_examples=5_000, stateful_step_count=100)

# Trio runs tasks that are ready together in a random order. With a seed that order can be had again, for each test by
# itself (`tests/reliability/repeat.py`). There is no public way to ask for it.
_SCHEDULER_SEED = os.environ.get("SPINDLE_SCHEDULER_SEED")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Have a worker for each core and one more, where pytest-xdist is installed: a third of the time tests wait.

    `-n 0` runs them in one process, for a debugger.
    """
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None and not is_worker:
        config.option.numprocesses = len(os.sched_getaffinity(0)) + 1
        config.option.dist = "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    """Have Hypothesis make fewer examples in the quick suite."""
    if config.option.markexpr == config.getini("addopts")[-1]:
        settings.load_profile("quick")


def pytest_collection_finish() -> None:
    """Leave what the collection of tests has made out of all collections of garbage: a tenth of a second each."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make slow what `quick(n)` leaves over, and leave the soak out of every selection that does not name it.

    So ``-m "slow or not slow"`` is all but the soak.
    """
    seen: collections.Counter[str] = collections.Counter()
    for item in items:
        quick = item.get_closest_marker("quick")
        if quick is None or item.get_closest_marker("slow") or item.get_closest_marker("soak"):
            continue
        test = item.nodeid.partition("[")[0]
        seen[test] += 1
        if seen[test] > quick.args[0]:
            item.add_marker(pytest.mark.slow)
    if "soak" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("soak")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


if _SCHEDULER_SEED is not None:
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # not as final as it says

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(item: pytest.Item) -> None:
        trio._core._run._r.seed(_SCHEDULER_SEED)
