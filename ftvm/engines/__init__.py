"""When to cut a checkpoint, and what must be safe before an output leaves: one frozen policy per module."""
