"""Generated examples are the same in each run, and may take their time: other tests use the CPUs, too."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("ropewalk", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ropewalk")
