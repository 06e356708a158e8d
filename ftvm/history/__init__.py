"""The past of a guest: what was recorded of it, gone through forwards and backwards, and shown.

hooks.py is a debugger's hold on the built-in machine, recording.py what leads a machine the same way again, timeline.py
the time machine with the states that it keeps (waypoints.py), gdbstub.py and gdbserver.py gdb's way in, coverage.py
what ran and how often, with the source lines (lines.py) and as a picture (picture.py).
"""
