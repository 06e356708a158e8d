"""A guest in 25 lines: memory, a thread, one register. Run it: two of its hosts get killed, and it counts on."""

import struct

import failover_demo

import ftvm


class Counter(ftvm.ThreadedGuest):  # noqa: D101
    def __init__(self, boots=True):
        super().__init__("counter/1", page_count=16)
        self.count = 0  # all that is not in its memory
        self.arena[:7] = b"counter" if boots else bytes(7)  # a standby's memory comes over the wire

    def turn(self):  # noqa: D102
        self.count += 1
        struct.pack_into("<Q", self.arena, 8 * (1 + self.count % 8191), self.count)
        if self.count % 10 == 0:
            self.emit("count", f"count {self.count}".encode())
        return 0.001  # seconds in which there is nothing to do

    def save(self):  # noqa: D102
        return struct.pack("<Q", self.count)

    def load(self, devices):  # noqa: D102
        (self.count,) = struct.unpack("<Q", devices)


if __name__ == "__main__":
    failover_demo.main(Counter)
