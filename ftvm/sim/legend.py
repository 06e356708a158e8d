"""What the lines of a trace mean, for who reads one the first time."""

from typing import Final

__all__ = ["LEGEND"]

LEGEND: Final = """\
One line an event: virtual milliseconds since the world began, then what happened.
  a#1 NAME(...)    incarnation 1 of host a told the event NAME of ftvm/events.py; `at` is by its own clock
  RECORD           the arbiter's record changed: generation, active replica, standby replica
  OUT n of r       output n left the host of replica r
  CRASH, PAUSE     a host died (and is started again later), or its process was stopped for so long
  AMBUSH           one of these came right after a change of the record
  CUT              nothing passes between these hosts any more, from the first to the second of each pair
  ARBITER, DISK    the arbiter is out of reach, or slow to write
  HEAL             the fault phase is over; from here on the guest must come to run, protected
Times of one host cannot be compared with another's: clocks start anywhere and drift.
"""
