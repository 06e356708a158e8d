"""What a guest under KVM sees of its processor, which must be the same on both hosts: model, features, clock rate.

QEMU gives a guest only those features of a model that the host has, and tells nobody: two hosts with equal arguments
may run unequal processors. So what it runs is compared, not what was asked for. Asks QEMU, changes nothing.

Source: QEMU, target/i386/cpu.c ("feature-words", "tsc-frequency").
"""

import json
from typing import Final

import xxhash

from ftvm.guests.qemu.qmp import Qmp

__all__ = ["describe_processor"]

_HZ_PER_MHZ: Final = 1_000_000


def describe_processor(qmp: Qmp) -> str:
    """Return vendor, family, model, stepping, a digest of all features, and the rate of the time stamp counter.

    The rate is in whole MHz: hosts of one kind measure theirs to some kHz, which KVM bears (250 ppm).
    Raises GuestError.
    """
    first = qmp.execute("query-cpus-fast")[0]["qom-path"]

    def ask(name: str) -> object:
        return qmp.execute("qom-get", path=first, property=name)

    words = sorted(json.dumps(word, sort_keys=True) for word in _list(ask("feature-words")))
    features = xxhash.xxh3_64_hexdigest("".join(words).encode())
    rate_mhz = round(int(str(ask("tsc-frequency"))) / _HZ_PER_MHZ)
    model = "-".join(str(ask(name)) for name in ("vendor", "family", "model", "stepping"))
    return f"cpu={model}/{features} tsc={rate_mhz}MHz"


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []
