"""The pair protocol (what next?) as tables and functions of (event, now). No clock, no chance, no I/O."""
