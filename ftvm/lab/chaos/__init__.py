"""Chaos: real processes that are killed, stopped, cut off and starved, round after round, while a client judges.

    values       what may be chosen, and what comes out
    namespace    a network and a mount table of one's own, where root allows
    arbiters     arbiters that can be broken and repaired
    witness      what must hold of all that hosts say and the arbiter keeps (pure)
    pair         one set-up of two hosts, relay, switch and client, and what can be done to it
    faults       the kinds of rounds, as a table
    worker       one pair's rounds, as a process
    campaign     several workers side by side, and the outcome

Start reading at faults.py.
"""
