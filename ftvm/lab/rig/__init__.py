"""The rig: a machine in software whose kernel has real hardware virtualization, to test under KVM on any machine.

QEMU's own emulator (TCG) can emulate a processor with nested SVM. A stock Debian kernel that boots there loads the real
kvm_amd, and a script of yours runs beside it, with this checkout of ftvm and a stock QEMU at hand. Everything is about
20 times slower than outside: what is right or wrong there means something, how long it takes does not.

    packages    fetches Debian's packages for it, and unpacks them (no root needed, nothing is installed)
    checkout    gathers this checkout of ftvm with the Python packages that it needs
    image       makes disks and ramdisks of both, once
    machine     boots them, hands on what the script prints, and returns how it ended
    __main__    the command: ``python -m ftvm.lab.rig SCRIPT``

`RigMissing` says what is missing here: a test skips with it as its reason. `RigFailed` says that the rig itself broke.
"""

from ftvm.errors import BrokenError, ConfigError

__all__ = ["RigFailed", "RigMissing"]


class RigMissing(ConfigError):
    """Something that the rig is made of is not here and cannot be fetched. A reason to skip, not to fail."""


class RigFailed(BrokenError):
    """The rig itself broke or took too long: its machine did not boot, or ended before the script did."""
