#!/usr/bin/env python3
"""In the rig: says which /dev/kvm there is, and makes a machine under it. The last line is JSON."""

import json
import platform
from pathlib import Path

from ftvm.guests.kvm.machine import check_device

MODULE = Path("/sys/module/kvm_amd")

print(
    json.dumps(
        {
            "linux": platform.release(),
            "module": MODULE.name if MODULE.exists() else None,
            "nested_paging": (MODULE / "parameters" / "npt").read_text().strip(),
            "device": check_device(),
        }
    )
)
