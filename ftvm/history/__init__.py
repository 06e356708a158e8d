"""The past of a guest: recorded beside a standby, restored, gone through forwards and backwards, and shown.

recorder.py records beside the host's loop: pipeline.py makes entries, merges and bases of commits, basing.py reads a
base from memory that goes on changing. history.py is the public face, restore.py brings memory to an epoch, checked,
diff.py says what changed between two, and when. Below, ftvm/store/ knows bytes, files and rows, and no guest.

hooks.py is a debugger's hold on the built-in machine, recording.py what leads a machine the same way again,
stored.py the same of a standby's history, timeline.py
the time machine with the states that it keeps (waypoints.py), gdbstub.py and gdbserver.py gdb's way in, coverage.py
what ran and how often, with the source lines (lines.py) and as a picture (picture.py).
"""
