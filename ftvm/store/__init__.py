"""The history's file format: entries in segments, a catalogue of them, and what is kept for how long.

A history is a folder. `segments/` holds files of entries (segment.py): an entry (entry.py) is what one epoch changed,
or what a second, a minute or an hour of them changed together; or a portion of a base, from which a restore starts.
`catalogue.db` (catalogue.py) says which entry is where, and which points are kept for good. What may be merged and
dropped is decided by retention.py, which is pure, and how to come to an epoch by route.py, likewise. store.py joins
them. Bytes, files and rows: it knows no guest, no thread and no clock.
"""
