"""The QEMU arguments that a protected guest may have, and why others may not: tables, which arguments.py reads.

Only what was tried is accepted: a guest with it starts, can be saved and goes on elsewhere, and no data bypasses ftvm
to a disk, a network or a person. All else is refused, options of a future QEMU too.

Source: QEMU, qemu-options.hx (which options take a value), `-device help`; what was tried with 7.2.
"""

import re
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "DEVICES",
    "OBJECTS",
    "OPTIONS",
    "REFUSED_DEVICES",
    "REFUSED_OPTIONS",
    "REFUSED_PROPERTIES",
    "SAID",
    "UNKNOWN",
    "Form",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What an option, or a device, may look like.

    takes_value  whether QEMU takes the word behind it as its value
    values       the only values there can be, each as a pattern; None: any, as it only names what is read or shown
    first        the property that a first part without "=" stands for; None: the value has no properties
    properties   for each property, a pattern of what it may be
    needs        properties of which one must be there
    """

    takes_value: bool = True
    values: str | None = None
    first: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


_ANY: Final = r"(?s:.*)"
_NUMBER: Final = r"(0x[0-9a-fA-F]+|\d+)"
_SWITCH: Final = r"on|off"
_ID: Final = r"[A-Za-z][A-Za-z0-9._-]*"
_FILE: Final = r"(?s:(?![^/]*:).+)"
"""A path. With a colon before its first slash QEMU reads it as a protocol (nbd:, json:, fat:rw:)."""

_WORD: Final = r"[A-Za-z0-9._-]+"
_MACHINES: Final = r"pc|q35|pc-i440fx-\d+\.\d+|pc-q35-\d+\.\d+"
_READ_ONLY_DRIVE: Final = {
    "file": _FILE,
    "if": r"ide|scsi|virtio|none",
    "media": r"cdrom|disk",
    "readonly": "on",
    "read-only": "on",
    "format": "raw",
    "id": _ID,
    **dict.fromkeys(("bus", "unit", "index"), _NUMBER),
}
_NONE: Final = Form(values="none")

OPTIONS: Final[dict[str, Form]] = {
    **dict.fromkeys(("-kernel", "-initrd", "-append", "-bios", "-L", "-uuid", "-smbios"), Form()),
    **dict.fromkeys(("-nographic", "-usb"), Form(takes_value=False)),
    **dict.fromkeys(("-display", "-vga", "-nic", "-net", "-serial", "-parallel", "-monitor"), _NONE),
    **dict.fromkeys(
        ("-machine", "-M"),
        Form(
            first="type",
            properties={
                "type": _MACHINES,
                **dict.fromkeys(("usb", "hpet", "acpi", "graphics", "dump-guest-core"), _SWITCH),
                **dict.fromkeys(("vmport", "smm"), r"on|off|auto"),
            },
        ),
    ),
    "-cpu": Form(values=r"(?!host\b)[A-Za-z0-9_-]+(,(?!migratable)[+-]?[a-z0-9][a-z0-9._-]*(=[A-Za-z0-9._ -]*)?)*"),
    "-smp": Form(
        first="cpus",
        properties=dict.fromkeys(("cpus", "maxcpus", "sockets", "dies", "clusters", "cores", "threads"), _NUMBER),
    ),
    "-name": Form(first="guest", properties={"guest": _ANY, "process": _ANY, "debug-threads": _SWITCH}),
    "-rtc": Form(properties={"base": r"[0-9A-Za-z:-]+", "clock": r"host|rt|vm", "driftfix": r"none|slew"}),
    "-boot": Form(
        first="order",
        properties={
            **dict.fromkeys(("order", "once"), r"[a-p]*"),
            **dict.fromkeys(("menu", "strict"), _SWITCH),
            **dict.fromkeys(("splash-time", "reboot-timeout"), _NUMBER),
        },
    ),
    "-cdrom": Form(values=_FILE),
    "-drive": Form(properties=_READ_ONLY_DRIVE, needs=("readonly=on", "read-only=on", "media=cdrom")),
    "-sandbox": Form(
        values=r"on(,(obsolete|elevateprivileges|spawn|resourcecontrol)=(allow|deny|children))*|off",
    ),
    "-fw_cfg": Form(first="name", properties={"name": _ANY, "file": _ANY, "string": _ANY}),
    "-object": Form(first="qom-type"),
    "-device": Form(first="driver"),
}
"""By QEMU's name with one dash. Values of devices and objects are judged by the tables below."""

OBJECTS: Final[dict[str, Form]] = {
    "rng-random": Form(properties={"id": _ID, "filename": r"/dev/(u?random|hwrng)"}),
    "rng-builtin": Form(properties={"id": _ID}),
}
"""By QEMU's name of the type. Each gives the guest something; none takes anything from it."""

_PLACE: Final = {
    "id": _ID,
    "bus": _WORD,
    "addr": r"[0-9a-fA-Fx.]+",
    "port": r"[0-9.]+",
    "multifunction": _SWITCH,
    "bootindex": _NUMBER,
}
_CDROM: Final = Form(properties={**_PLACE, "drive": _ID, "unit": _NUMBER, "scsi-id": _NUMBER, "lun": _NUMBER})

DEVICES: Final[dict[str, Form]] = {
    **dict.fromkeys(
        ("usb-tablet", "qemu-xhci", "ahci", "ich9-ahci", "virtio-scsi-pci", "i6300esb", "intel-hda"),
        Form(properties=_PLACE),
    ),
    **dict.fromkeys(("ide-cd", "scsi-cd"), _CDROM),
    "virtio-rng-pci": Form(
        properties={**_PLACE, "rng": _ID, "max-bytes": _NUMBER, "period": _NUMBER},
    ),
    "virtio-gpu-pci": Form(properties={**_PLACE, **dict.fromkeys(("max_outputs", "xres", "yres"), _NUMBER)}),
}
"""By QEMU's name of the driver. None has a backend on the host but `drive` and `rng`, which must be accepted ones."""

_DISK: Final = (
    "what is written there is neither replicated nor held; use --disk (in Python: disk_bytes, and disk of QemuGuest)"
)
_CARD: Final = "what leaves by another card is not held until it is safe; use --nic (in Python: mac)"
_MEMORY: Final = "ftvm sets it; use --memory (in Python: memory_bytes)"
_COMMANDS: Final = "ftvm sets it: only ftvm may command QEMU; use ftvm ctl"
_SPOKEN: Final = "its output is not held until it is safe; use the console, which is (ttyS0 in the guest)"
_SEEN: Final = "what is seen there is not held until it is safe; use -display none, and the console (ttyS0)"
_ACCEL: Final = "ftvm sets it; use --accel kvm (in Python: accel)"
_HOST_MODEL: Final = (
    "the other host's processor may differ, and the guest would not go on there; use a model that both have: -cpu MODEL"
)
_STATE: Final = "its state is outside QEMU, and a takeover would lose it; leave it out"
_LOOKED_AT: Final = "ftvm does not check what it changes; write separate options and properties instead"
_OWN_LIFE: Final = "ftvm sets it: ftvm starts, watches and ends QEMU; leave it out"
_OTHER_WRITER: Final = "another process writes to the guest's memory, and nobody is told which pages; leave it out"
_REAL: Final = "a real device's state cannot be saved; use an emulated one"

UNKNOWN: Final = "ftvm has not tried it; leave it out"

REFUSED_OPTIONS: Final[dict[str, str]] = {
    **dict.fromkeys(("-drive", "-blockdev", "-hda", "-hdb", "-hdc", "-hdd", "-fda", "-fdb", "-sd", "-mtdblock"), _DISK),
    **dict.fromkeys(("-virtfs", "-fsdev", "-iscsi"), _DISK),
    "-pflash": "UEFI variables written there are neither replicated nor held; use -bios with an OVMF of one file",
    "-snapshot": "a disk is replicated as it is; use a copy of the image as --disk (in Python: disk of QemuGuest)",
    **dict.fromkeys(("-netdev", "-nic", "-net"), _CARD),
    **dict.fromkeys(("-m", "-mem-path", "-mem-prealloc", "-numa"), _MEMORY),
    **dict.fromkeys(("-qmp", "-qmp-pretty", "-mon", "-monitor", "-gdb", "-s", "-qtest"), _COMMANDS),
    **dict.fromkeys(("-chardev", "-serial", "-parallel", "-debugcon"), _SPOKEN),
    **dict.fromkeys(("-display", "-vnc", "-spice", "-full-screen"), _SEEN),
    "-vga": "a screen has its own memory, which is not shared; use -vga none, and the console (ttyS0)",
    **dict.fromkeys(
        ("-audiodev", "-audio", "-soundhw"), "what is heard there is not held until it is safe; leave it out"
    ),
    **dict.fromkeys(("-enable-kvm", "-no-kvm"), _ACCEL),
    "-cpu": _HOST_MODEL,
    "-accel": "ftvm sets it; use --accel (in Python: accel)",
    "-tpmdev": _STATE,
    "-usbdevice": f"{_REAL} with -device",
    **dict.fromkeys(("-global", "-set", "-plugin", "-readconfig", "-writeconfig", "-compat"), _LOOKED_AT),
    "-incoming": "ftvm sets it: ftvm decides who waits for a state; leave it out",
    "-loadvm": "ftvm sets it: ftvm decides what the guest starts from; leave it out",
    "-S": "ftvm sets it: ftvm starts the guest; leave it out",
    "-preconfig": "ftvm sets it: ftvm starts the guest; leave it out",
    **dict.fromkeys(("-daemonize", "-pidfile", "-runas", "-chroot", "-add-fd"), _OWN_LIFE),
    **dict.fromkeys(("-nodefaults", "-no-user-config"), "ftvm sets it already; leave it out"),
}
"""Why an option is refused, and what to use instead; one that is accepted in some form is here for its others."""

REFUSED_PROPERTIES: Final[dict[str, str]] = {
    "file": "only a file is known to be read and not written; use its path",
    **dict.fromkeys(("readonly", "read-only", "drive"), _DISK),
    "accel": REFUSED_OPTIONS["-accel"],
    **dict.fromkeys(("memory-backend", "memdev"), _MEMORY),
    **dict.fromkeys(("pflash0", "pflash1"), REFUSED_OPTIONS["-pflash"]),
    "chardev": _SPOKEN,
    "netdev": _CARD,
    "audiodev": REFUSED_OPTIONS["-audiodev"],
}
"""Why a property of whatever option or device is refused; of others it is said which there may be."""

SAID: Final = {
    _NUMBER: "a number",
    _ID: "a name",
    _WORD: "a name",
    _FILE: "the path of a file",
    _MACHINES: "pc, q35, pc-i440fx-N.N or pc-q35-N.N",
}
"""A pattern in words."""

REFUSED_DEVICES: Final[tuple[tuple["re.Pattern[str]", str], ...]] = tuple(
    (re.compile(names), why)
    for names, why in (
        (r"vhost-.*|.*-pci-proxy-dev|x-.*", _OTHER_WRITER),
        (
            r"vfio-.*|pci-assign",
            "a real device writes to the guest's memory, and its state cannot be saved; leave it out",
        ),
        (r"virtio-balloon.*", "pages that it takes away change without being written; leave it out"),
        (r"ivshmem.*", "ftvm does not track memory that others write to; leave it out"),
        (r"pc-dimm|nvdimm|virtio-mem.*|virtio-pmem.*|cxl-.*|memory-backend-.*", _MEMORY),
        (r"(virtio-blk|nvme|pvscsi|sd-card|floppy|virtio-9p|usb-mtp).*", _DISK),
        (r"(ide|scsi)-(hd|block|generic|drive)|usb-(storage|bot|uas)", _DISK),
        (r"(virtio-net|e1000|rtl8139|pcnet|ne2k|vmxnet3|i82|tulip|usb-net|rocker|pvrdma).*", _CARD),
        (r"virtio-serial.*|virtserialport|virtconsole|.*-serial(-.*)?|isa-debugcon|usb-(braille|redir)", _SPOKEN),
        (
            r"VGA|.*vga.*|qxl.*|bochs-display|ramfb",
            "a screen has its own memory, which is not shared; use -vga none",
        ),
        (r"usb-host|u2f-passthru|ccid-.*|virtio-input-host.*|can-.*", _REAL),
        (r"tpm-.*|.*ipmi.*", _STATE),
        (
            r"(hda-|usb-audio|AC97|ac97|ES1370|es1370|sb16|adlib|gus|cs4231a).*",
            "what is heard is not held; leave it out",
        ),
    )
)
"""Why a device (or an object) is refused, by a pattern of its name; the first that fits counts."""
