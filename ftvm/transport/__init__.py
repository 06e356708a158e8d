"""How messages travel: zeromq between hosts, memory within a process; one contract."""
