"""Which QEMU arguments a guest may have: those on the list, however they are written, and none besides."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftvm.errors import ConfigError
from ftvm.guests.qemu.accepted import DEVICES, OBJECTS, OPTIONS
from ftvm.guests.qemu.arguments import check_arguments

ACCEPTED = [
    ("-kernel", "vmlinuz", "-append", "console=ttyS0 root=/dev/vda -- {x}", "-initrd", "-starts-with-a-dash"),
    ("-bios", "/usr/share/OVMF/OVMF_CODE.fd"),
    ("-L", "/usr/share/seabios"),
    ("-cdrom", "install.iso"),
    ("-cdrom", "./with:colon.iso"),
    ("-drive", "file=x,if=virtio,readonly=on"),
    ("-drive", "file=comma,,comma.iso,media=cdrom"),
    ("-drive", "id=cd,file=x.iso,if=none,media=cdrom", "-device", "scsi-cd,drive=cd", "-device", "virtio-scsi-pci"),
    ("-object", "rng-random,id=r,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=r"),
    ("-object", "qom-type=rng-builtin,id=b", "-device", "driver=virtio-rng-pci,rng=b"),
    ("-device", "virtio-rng-pci"),
    ("-device", "virtio-gpu-pci,xres=800,yres=600"),
    ("-usb", "-device", "usb-tablet"),
    ("-device", "qemu-xhci,id=x", "-device", "usb-tablet,bus=x.0"),
    ("-device", "i6300esb", "-device", "intel-hda"),
    ("-machine", "q35"),
    ("-M", "pc-i440fx-7.2,usb=on,vmport=off"),
    ("-machine", "type=pc-q35-7.2,smm=off,hpet=off"),
    ("-cpu", "max"),
    ("-cpu", "Skylake-Server-v4,+avx2,-x2apic,pmu=off,vendor=GenuineIntel"),
    ("-smp", "2"),
    ("-smp", "cpus=4,sockets=1,cores=2,threads=2"),
    ("-name", "guest=vm,,1,debug-threads=on"),
    ("-uuid", "12345678-1234-1234-1234-123456789abc"),
    ("-rtc", "base=2026-01-01T00:00:00,clock=vm,driftfix=slew"),
    ("-boot", "c"),
    ("-boot", "order=dc,menu=on,strict=on"),
    ("-vga", "none", "-display", "none", "-nographic", "-nic", "none", "-net", "none"),
    ("-serial", "none", "-parallel", "none", "-monitor", "none"),
    ("-sandbox", "on,obsolete=deny,spawn=deny"),
    ("-smbios", "type=1,manufacturer=ftvm"),
    ("-fw_cfg", "name=opt/x,string=1"),
]

NOT_ON_THE_LIST = [
    # ways to the outside
    *[("-netdev", "user,id=n"), ("-nic", "user"), ("-net", "user"), ("-device", "e1000,netdev=n"), ("-nic",)],
    *[("-drive", "file=x,if=virtio"), ("-hda", "x"), ("-blockdev", "file,filename=x,node-name=y"), ("disk.img",)],
    *[("-drive", "file=x,media=cdrom,readonly=off"), ("-drive", "file=x,media=cdrom,media=disk")],
    *[("-drive", "file=x,read-only=off,media=cdrom"), ("-drive", "file=x,file=y,readonly=on")],
    *[("-drive", "file=x,readonly=on,readonly=off"), ("-drive", "file=x,if=pflash,readonly=on")],
    *[("-drive", "file=nbd:host:1,readonly=on"), ("-drive", "file.driver=nbd,readonly=on"), ("-pflash", "x")],
    *[("-cdrom", "json:{}"), ("-cdrom", "fat:rw:/tmp"), ("-drive", "file=x,readonly=on,snapshot=on"), ("-drive",)],
    *[("-virtfs", "local,path=/,mount_tag=x"), ("-fsdev", "local,id=f,path=/"), ("-iscsi", "user=x")],
    *[("-serial", "stdio"), ("-chardev", "null,id=c"), ("-serial",), ("-debugcon", "stdio"), ("-monitor", "stdio")],
    *[("-vnc", ":5"), ("-spice", "port=1"), ("-display", "vnc=:1"), ("-vga", "std"), ("-audiodev", "pa,id=a")],
    *[
        ("-device", "usb-host,hostbus=1"),
        ("-usbdevice", "host:1"),
        ("-tpmdev", "passthrough,id=t"),
        ("-qtest", "unix:x"),
    ],
    *[("-object", "can-host-socketcan,id=c,if=can0,canbus=b"), ("-object", "can-bus,id=b"), ("-plugin", "x.so")],
    *[("-device", name) for name in ("VGA", "isa-debugcon,chardev=c", "virtserialport,chardev=c", "tpm-tis,tpmdev=t")],
    *[
        ("-device", name)
        for name in ("virtio-blk-pci,drive=d", "ide-hd", "nvme", "usb-storage", "virtio-net-pci", "AC97")
    ],
    ("-device", "ide-cd,drive=ftvm-disk"),
    ("-drive", "id=cd,file=x,if=none", "-device", "ide-cd,drive=cd"),
    ("-device", "virtio-rng-pci,rng=other"),
    ("-device", "usb-tablet,display=x"),
    ("-object", "rng-egd,id=r,chardev=c"),
    ("-object", "rng-random,id=r,filename=/etc/shadow"),
    # memory that others write to, or that is not shared
    *[("-m", "4G"), ("-mem-path", "/x"), ("-numa", "node"), ("-object", "memory-backend-ram,id=m,size=1M")],
    ("-object", "memory-backend-memfd,id=m,hugetlb=on,size=2M"),
    ("-object", "memory-backend-file,id=m,mem-path=/dev/hugepages,size=2M"),
    *[("-device", name) for name in ("vhost-vsock-pci", "vfio-pci,host=1", "virtio-balloon-pci", "ivshmem-plain")],
    *[("-device", "pc-dimm,memdev=m"), ("-machine", "pc,memory-backend=m"), ("-machine", "q35,pflash0=f")],
    # who commands it
    *[("-incoming", "defer"), ("-S",), ("-daemonize",), ("-snapshot",), ("-loadvm", "x"), ("-qmp", "stdio"), ("-s",)],
    *[("-gdb", "tcp::1234"), ("-mon", "x"), ("-pidfile", "x"), ("-runas", "x"), ("-add-fd", "fd=3,set=1")],
    *[("-accel", "kvm"), ("-accel", "tcg"), ("-enable-kvm",), ("-machine", "pc,accel=kvm"), ("-cpu", "host")],
    # ways round the list
    *[("-readconfig", "x"), ("-set", "device.x.y=z"), ("-global", "isa-debugcon.chardev=c"), ("-global",), ("@file",)],
    *[
        ("-device", '{"driver":"usb-host"}'),
        ("-device", "usb-tablet,driver=usb-host"),
        ("-object", "{}"),
        ("-M", " {}"),
    ],
    *[
        ("-device", "id=x,driver=usb-host"),
        ("-device", "id=x"),
        ("-device", ""),
        ("-device",),
        ("-kern", "x"),
        ("-kernel",),
    ],
    *[("-cpu", "max,migratable=off"), ("-cpu", "max,x=/machine"), ("-M", "none"), ("-M", "x-remote"), ("-boot", "x=y")],
    *[("-kernel=x",), ("-", "x"), ("--", "x"), ("---kernel", "x"), ("", "x"), ("-no-such-option",), ("-smp", "2,,x")],
    *[("-rtc", "clock"), ("-sandbox", "on,x=y"), ("-fw_cfg", "name=x,gen_id=y"), ("-name", "a,nodebug-threads")],
]


@pytest.mark.parametrize("words", ACCEPTED)
@pytest.mark.parametrize("dashes", [1, 2])
def test_what_was_tried_is_accepted_with_one_dash_or_two(words: tuple[str, ...], dashes: int) -> None:
    """An option's value may look like an option: QEMU takes it as a value all the same."""
    given = [f"-{word}" if word in OPTIONS and dashes == 2 else word for word in words]

    check_arguments(given)


@pytest.mark.parametrize("words", NOT_ON_THE_LIST)
def test_what_is_not_on_the_list_is_refused_by_name_with_what_to_do_instead(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        check_arguments(words)

    message = str(refused.value)
    assert f"QEMU argument {words[0]}" in message or f"QEMU argument {' '.join(words[-2:])}" in message
    assert any(instead in message for instead in ("use ", "leave ", "write ", "needs a value", " may be "))


names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
unlisted = st.one_of(
    st.sampled_from(NOT_ON_THE_LIST),
    names.filter(lambda name: f"-{name}" not in OPTIONS).map(lambda name: (f"-{name}",)),
    names.filter(lambda name: name not in DEVICES).map(lambda name: ("-device", name)),
    names.filter(lambda name: name not in OBJECTS).map(lambda name: ("-object", f"{name},id=x")),
    st.tuples(st.sampled_from(sorted(DEVICES)), names)
    .filter(lambda pair: pair[1] not in DEVICES[pair[0]].properties)
    .map(lambda pair: ("-device", f"{pair[0]},{pair[1]}=on")),
)


@given(before=st.lists(st.sampled_from(ACCEPTED)), after=st.lists(st.sampled_from(ACCEPTED)), bad=unlisted)
@example(before=[], after=[], bad=("-spice",))
def test_no_list_with_an_item_that_is_not_on_the_list_is_accepted(
    before: list[tuple[str, ...]], after: list[tuple[str, ...]], bad: tuple[str, ...]
) -> None:
    if len(bad) == 1 and bad[0] in OPTIONS:
        after = []  # what lacks its value takes the next word for it

    with pytest.raises(ConfigError):
        check_arguments([word for words in (*before, bad, *after) for word in words])


@given(lists=st.lists(st.sampled_from(ACCEPTED)))
def test_any_list_of_accepted_items_is_accepted(lists: list[tuple[str, ...]]) -> None:
    check_arguments([word for words in lists for word in words])


@given(words=st.lists(st.text(max_size=30), max_size=8))
def test_words_of_any_kind_are_judged_and_never_break_the_judge(words: list[str]) -> None:
    try:
        check_arguments(words)
    except ConfigError as refused:
        assert "QEMU argument" in str(refused)  # noqa: PT017
    else:
        assert all(word.replace("--", "-", 1) in OPTIONS for word in words[:1])


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        check_arguments(("-m", "4G", "-kernel", "x", "-spice", "port=1", "-device", "usb-host", "-smp", "2"))

    lines = str(refused.value).splitlines()
    assert lines[0] == "3 QEMU arguments cannot be accepted:"
    assert [line.split(" is refused")[0].split(" cannot")[0] for line in lines[1:]] == [
        "  QEMU argument -m 4G",
        "  QEMU argument -spice port=1",
        "  QEMU argument -device usb-host",
    ]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("-m", "4G"), r"is refused: ftvm sets it; use --memory \(in Python: memory_bytes\)"),
        (("-drive", "file=t.img,if=virtio"), r"neither replicated nor held; use --disk \(in Python: disk_bytes"),
        (("-netdev", "user,id=n"), r"not held until it is safe; use --nic \(in Python: mac\)"),
        (("-accel", "kvm"), "ftvm sets it; use --accel kvm"),
        (("-enable-kvm",), "ftvm sets it; use --accel kvm"),
        (("-machine", "q35,accel=kvm:tcg"), "ftvm sets it; use --accel kvm"),
        (("-accel", "tcg"), r"ftvm sets it; use --accel \(in Python: accel\)"),
        (("-device", "vhost-user-fs-pci,chardev=c"), "another process writes"),
        (("-device", "vfio-pci,host=01:00.0"), "a real device writes"),
        (("-device", "virtio-balloon-pci"), "change without being written"),
        (("-object", "memory-backend-file,id=m"), "use --memory"),
        (("-machine", "isapc"), "type may be pc, q35, pc-i440fx-N.N or pc-q35-N.N"),
        (("-device", "virtio-rng-pci,max-bytes=x"), "max-bytes may be a number"),
        (("-device", '{"driver":"usb-tablet"}'), "ftvm does not read JSON here; write NAME,PROPERTY=VALUE"),
        (("-device", "usb-tablet,driver=intel-hda"), "driver is there twice; leave one out"),
        (("x.img",), "QEMU takes a word without an option for a disk; use --disk"),
    ],
)
def test_a_refusal_says_why_and_what_to_use_in_the_words_of_the_command_line(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        check_arguments(words)
