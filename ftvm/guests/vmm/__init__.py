"""Anybody's monitor, in any language: a program that hands its guest over to ftvm by a unix socket.

The protocol is docs/handover.md; examples/vmm has a client in C and a tiny monitor that uses it. messages.py is what is
said, door.py where a monitor comes in, memory.py the memory that it hands over, link.py the connection, guest.py makes
all of it a `Guest`. A monitor is trusted with its own guest and with nothing else: what it says is checked as a
stranger's would be, and a lie ends its connection.
"""

from ftvm.guests.vmm.door import MonitorDoor
from ftvm.guests.vmm.guest import VmmGuest

__all__ = ["MonitorDoor", "VmmGuest"]
