"""Drives the pure machines: driver.step(now) without threads, host.py with them, clock.py with the time."""
