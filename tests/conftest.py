"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Examples are counted, not timed: a machine that is busy with something else makes no test fail.
settings.register_profile("spindle_trio", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("spindle_trio")
