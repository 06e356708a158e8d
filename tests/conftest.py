"""What holds for all tests: hypothesis measures no time, since a busy machine is no bug."""

from hypothesis import HealthCheck, settings

settings.register_profile("ftvm", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ftvm")
