"""A stranger without a key: holds as many idle connections to an endpoint as it can, and says not a byte.

python flood.py PORT COUNT       tells a line once all are open, or as many as are let in, and goes on until killed
"""

import contextlib
import errno
import selectors
import socket
import sys

BURST = 64


def connect(port: int) -> socket.socket | None:
    stranger = socket.socket()
    stranger.setblocking(False)
    if stranger.connect_ex(("127.0.0.1", port)) in (0, errno.EINPROGRESS):
        return stranger
    stranger.close()
    return None


def main(port: int, count: int) -> None:
    selector = selectors.DefaultSelector()
    opened = 0
    while True:
        for _ in range(min(BURST, count - len(selector.get_map()))):
            stranger = connect(port)
            if stranger is None:
                break
            selector.register(stranger, selectors.EVENT_READ)
            opened += 1
        if opened >= count:
            opened = -1 << 60
            print("flooded", flush=True)
        for key, _ in selector.select(0.01):
            stranger = key.fileobj  # type: ignore[assignment]
            with contextlib.suppress(OSError):
                if stranger.recv(4096):  # type: ignore[union-attr]
                    continue
            selector.unregister(stranger)  # type: ignore[arg-type]
            stranger.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
