"""A guest's disk: a raw image on each host, served to the guest's machine in C, and replicated with its memory.

disk.py is the disk as the runtime sees it (a region of memory, and a store that commits are told to); image.py keeps a
standby's image at one committed epoch; negotiation.py and server.py are NBD up to where C goes on
(ftvm/_native/blockserver.h). Memory holds what is on its way to the image; the rest is the system's cache.
"""
