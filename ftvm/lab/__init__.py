"""Real processes on one machine: the demo, its client, and a learning switch."""
