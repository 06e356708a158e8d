"""Your own guest: memory from mmap, and a Python program that works in it. Run it: two of its hosts get killed.

All that ftvm asks of a hypervisor is in ArenaGuest. Its program keeps one number beyond its memory, `step`, as a real
machine has registers; all else that its future depends on lies in the arena, which ftvm copies page by page.
"""

# ruff: noqa: D102 - ftvm.Guest says what each method must do

import collections
import mmap
import struct
import threading
import time

import ftvm

PAGES = 16


class ArenaGuest:
    """A ledger: each step enters a new total into one account, and each tenth one tells it."""

    can = frozenset()  # neither replay nor an exact stop: Remus will do, and Kemari holds the output instead

    def __init__(self, boots=True):
        self.arena = mmap.mmap(-1, PAGES * 4096)
        self.memory = (ftvm.Region(name="arena", buffer=memoryview(self.arena), page_count=PAGES),)
        shape = ftvm.RegionShape(name="arena", page_count=PAGES)
        self.geometry = ftvm.Geometry(machine="arena/1", regions=(shape,))  # must be equal on both hosts
        self.tracker = ftvm.track_memory(self.memory)  # which pages were written
        self.inputs = collections.deque(maxlen=100)
        self.step = 0
        self.is_wanted, self.is_closed, self.turn = threading.Event(), False, threading.Lock()
        if boots:
            self.boot()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def boot(self):
        self.arena[:8] = struct.pack("<Q", 1)

    def run(self):
        while self.is_wanted.wait() and not self.is_closed:
            with self.turn:  # whoever holds the turn decides whether the guest moves
                if self.is_wanted.is_set():
                    self.work()
            time.sleep(0.001)

    def work(self):
        self.step += 1
        (total,) = struct.unpack_from("<Q", self.arena)
        total = (total * 31 + (len(self.inputs.popleft()) if self.inputs else 0)) % 2**61
        account = 1 + self.step * 113 % (PAGES * 512 - 1)
        struct.pack_into("<Q", self.arena, 8 * account, total)
        struct.pack_into("<Q", self.arena, 0, total)
        if self.step % 10 == 0:
            self.sink.emit("ledger", f"step {self.step}, total {total}".encode())

    def attach(self, sink):
        self.sink = sink

    def pause(self):
        self.is_wanted.clear()
        with self.turn:  # a step that has begun is over now, and no other one begins
            pass

    def resume(self):
        self.is_wanted.set()

    def collect_dirty(self):
        return self.tracker.collect()

    def restore_dirty(self, bitmap):
        self.tracker.restore(bitmap)

    def save_devices(self):
        return struct.pack("<4sQ", b"ARNA", self.step)

    def load_devices(self, devices):
        if len(devices) != 12 or devices[:4] != b"ARNA":
            raise ftvm.GuestError(f"{len(devices)} bytes are no devices of an arena guest")
        self.step = struct.unpack("<4sQ", devices)[1]

    def deliver(self, channel, payload):
        if channel == "ledger":
            self.inputs.append(payload)

    def failure(self):
        return None  # it can always go on

    def close(self):
        self.is_closed = True
        self.is_wanted.set()
        self.thread.join()
        self.tracker.close()


if __name__ == "__main__":
    import failover_demo

    failover_demo.main(ArenaGuest)
