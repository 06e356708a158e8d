"""Talk to the key-value guest `kv`: python kv_client.py [--host 10.77.0.2] put KEY VALUE | get KEY | stat.

Its protocol is examples/guests/kv/kv_protocol.h. A request that is not answered is sent again, under the same number:
the guest does it once. So a takeover shows as nothing but a longer wait.
"""

import secrets
import socket
import struct
import sys

REQUEST, REPLY = struct.Struct("!4sBBHQQHH"), struct.Struct("!4sBBHQQQQQ")
OPERATIONS = {"put": 1, "get": 2, "stat": 3}
STATUSES = ("ok", "not found", "bad request", "full", "stale")


def ask(address, operation, key=b"", value=b"", tries=100):
    """Return (status, value) of one request."""
    client, number = secrets.randbits(63), 1
    request = REQUEST.pack(b"FTKV", 1, OPERATIONS[operation], len(key), client, number, len(value), 0) + key + value
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(0.3)
        for _ in range(tries):
            link.sendto(request, address)
            try:
                reply = link.recv(2048)
            except TimeoutError:
                continue
            magic, _, status, length, whose, _, _, _, _ = REPLY.unpack_from(reply)
            if magic == b"FTKR" and whose == client:
                return STATUSES[status], reply[REPLY.size : REPLY.size + length]
    raise SystemExit(f"no answer from {address[0]}")


def main(words):
    """Do what the command line says."""
    host = "10.77.0.2"
    if words[:1] == ["--host"]:
        host, words = words[1], words[2:]
    if not words or words[0] not in OPERATIONS:
        raise SystemExit(__doc__)
    operation, *rest = words
    status, value = ask((host, 7000), operation, *(word.encode() for word in rest))
    print(status, value.decode())


if __name__ == "__main__":
    main(sys.argv[1:])
