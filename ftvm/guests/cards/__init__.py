"""Network cards whose frames are moved and held in C; Python decides when they leave.

`PumpedCard` is one card, between whoever emulates it and a tap of this host, which keeps what the card offloads, or any
other cable; `PumpWorld` is a guest's outside over such cards. What a card holds becomes outputs like any others, each
for many frames at once (batch.py), so that no rule of release is told twice. See docs/disks-and-networks.md.
"""

from ftvm.guests.cards.card import PumpedCard
from ftvm.guests.cards.world import PumpWorld

__all__ = ["PumpWorld", "PumpedCard"]
