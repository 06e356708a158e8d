"""Settings of all tests: no test measures time, so hypothesis must not either."""

from hypothesis import settings

settings.register_profile("ftvm", deadline=None)
settings.load_profile("ftvm")
