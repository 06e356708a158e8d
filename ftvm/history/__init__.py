"""The past of a guest: what was recorded of it, gone through forwards and backwards, and shown.

hooks.py is a debugger's hold on the built-in machine, recording.py what leads a machine the same way again, timeline.py
the time machine with the states that it keeps (waypoints.py), gdbstub.py and gdbserver.py gdb's way in.
"""
