# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line, and what one QEMU can and another cannot."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.host import program
from harness.machine import device, firmware
from harness.machine.device import Definition
from harness.machine.topology import Machine

# A core without pointer authentication, which TCG emulates slowly.
_CPU = "cortex-a57"

# Freed memory of these sizes is poisoned and its bounds are checked: use after free is an
# oops, and a write to it is told (CONFIG_SLUB_DEBUG). Groups, domains and what drivers
# keep of a device are that small; whole pages, which sysfs takes for each read, would
# double the time of a look at it. Caches are not merged: each counts its own objects.
_CHECKED = ["8", "16", "32", "64", "96", "128", "192", "256", "512", "1k"]

# A panic ends the guest at once, and QEMU with it (-no-reboot). Of tasks that hang some are
# told, and not the same again every quarter of a minute: that would pass for life.
KERNEL_ARGUMENTS = " ".join(
    (
        "console=ttyAMA0 panic=-1 sysctl.kernel.hung_task_warnings=4",
        f"slub_debug=FZP,{','.join(f'kmalloc-{size}' for size in _CHECKED)}",
        "slab_nomerge",
    )
)

# The id of a machine's memory, in QEMU and in what it migrates.
_MEMORY = "ram"

# The network of SSH: the backend's id, which the port is forwarded on.
SSH_NETWORK = "ssh"
# Not the subnet of the NICs under test.
_SSH_SUBNET = "10.0.3.0/24"
SSH_ADDRESS = "10.0.3.15"


@dataclass(frozen=True, slots=True)
class Boot:
    """What a guest starts from. ``dtb`` is None where firmware brings ACPI tables, and for
    a guest that goes on, which has read it."""

    machine: Machine
    image: Path
    initrd: Path
    dtb: Path | None
    arguments: str = ""

    @property
    def command_line(self) -> str:
        """The kernel's."""
        acpi = "acpi=force" if self.machine.firmware == "acpi" else ""
        single = "harness_console=ttyAMA0" if self.machine.single_console else ""
        parts = (KERNEL_ARGUMENTS, acpi, single, self.arguments)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Memory:
    """Where a guest's memory is: nowhere but in QEMU without a ``file``; in the file,
    ``shared`` so that what the guest writes goes there, or else private, so that it
    begins with what the file has and leaves it as it is."""

    file: Path | None = None
    shared: bool = False


ANONYMOUS = Memory()


def version(qemu: str) -> str:
    """The first line of ``--version``. Raises ToolMissing without QEMU."""
    return _said(qemu, "--version").splitlines()[0]


def identity(qemu: str) -> str:
    """Changes with the program."""
    path = Path(program.require(qemu)).resolve()
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def check(machine: Machine) -> None:
    """Raises UsageError for a machine that this QEMU cannot make."""
    if machine.stage and not has_property(machine.qemu, machine.iommu.model, "stage"):
        raise UsageError(
            f"{version(machine.qemu)} has no stages of an SMMUv3",
            "name a newer one with --qemu: nested ones came with 10.0",
        )
    # Asking takes QEMU 0.1 s, and it has had these for ever.
    for model in sorted({each.model for each in machine.devices} - _EVERYWHERE):
        if model not in models(machine.qemu):
            raise UsageError(
                f"{version(machine.qemu)} has no device {model!r}",
                f"see {machine.qemu} -device help, or name another with --qemu",
            )


_EVERYWHERE = {
    *device.DRIVERS,
    *("pcie-root-port", "x3130-upstream", "xio3130-downstream", "pcie-pci-bridge"),
}


def models(qemu: str) -> set[str]:
    """The devices that users can add, as QEMU itself tells: names and aliases."""
    return set(re.findall(r'(?:^name|, alias) "([^"]+)"', _said(qemu, "-device", "help"), re.M))


def has_property(qemu: str, model: str, name: str) -> bool:
    """Whether the device model has the property, as QEMU itself tells."""
    said = _said(qemu, "-device", f"{model},help")
    return re.search(rf"^  {re.escape(name)}=", said, re.MULTILINE) is not None


def _said(qemu: str, *words: str) -> str:
    path = program.require(qemu)
    return _answer(path, Path(path).stat().st_mtime_ns, words)


@functools.cache
def _answer(path: str, _changed: int, words: tuple[str, ...]) -> str:
    return program.run([path, *words])


def board(machine: Machine, options: str = "") -> list[str]:
    """The part that shapes the device tree: machine, processors, memory, devices."""
    argv = [machine.qemu, "-nodefaults", "-display", "none"]
    # GICv3, because the SMMU's MSIs need its ITS.
    kind = _kind(machine)
    parts = (kind, "gic-version=3", "dtb-randomness=off", machine.iommu.machine_option)
    argv += ["-M", ",".join(part for part in parts if part) + options]
    argv += ["-cpu", _CPU, "-smp", str(machine.cpus), "-m", f"{machine.memory}M"]
    if machine.stage:
        argv += ["-global", f"{machine.iommu.model}.stage={machine.stage}"]
    if machine.firmware == "acpi":
        argv += ["-bios", str(firmware.image())]
    for each in _definitions(machine):
        argv += [f"-{each.option}", json.dumps(each.fields)]
    return argv


# The last that leaves an SMMUv3's stage to -global: later ones set it themselves, to
# nested (virt_9_2_options and no_nested_smmu in hw/arm/virt.c).
_STAGES = "virt-9.1"


def _kind(machine: Machine) -> str:
    """The board. Of a QEMU that does not have the old one the newest is taken, and
    ``check_stage`` says what came of it."""
    has_it = machine.stage and re.search(rf"^{_STAGES} ", _said(machine.qemu, "-M", "help"), re.M)
    return _STAGES if has_it else "virt"


def check_stage(machine: Machine, execute: Callable[[str, dict[str, Any]], Any]) -> None:
    """Asks the running QEMU, by QMP, for the stage of its SMMUv3. Raises UsageError where
    it is not the machine's: QEMU drops a -global that something else overrides."""
    if not machine.stage:
        return
    place = "/machine/unattached"
    children = execute("qom-list", {"path": place})
    names = (each["name"] for each in children if each["type"] == f"child<{machine.iommu.model}>")
    has = [execute("qom-get", {"path": f"{place}/{name}", "property": "stage"}) for name in names]
    if has != [machine.stage]:
        raise UsageError(
            f"the machine {machine.name} has stage {machine.stage!r}, and {version(machine.qemu)} "
            f"gives its SMMUv3 {' and '.join(map(repr, has)) or 'none'}",
            "name another QEMU with --qemu, or leave stage out",
        )


def _definitions(machine: Machine) -> Iterator[Definition]:
    if not machine.iommu.machine_option:
        yield Definition(device.DEVICE, {"driver": machine.iommu.model})
    yield from device.definitions(machine.devices)
    if machine.ssh:
        # Of virtio-mmio, which no change to PCI or to the IOMMU can cut off.
        network = {"type": "user", "id": SSH_NETWORK, "restrict": True, "net": _SSH_SUBNET}
        yield Definition(device.NETDEV, network)
        yield Definition(device.DEVICE, {"driver": "virtio-net-device", "netdev": SSH_NETWORK})


def memory(machine: Machine, where: Memory) -> list[str]:
    """The memory, under one id however it is kept: a state fits only the same ids."""
    kind: dict[str, Any] = {"qom-type": "memory-backend-ram"}
    if where.file:
        kind = {"qom-type": "memory-backend-file", "mem-path": str(where.file)}
        kind["share"] = where.shared
    backend = {**kind, "id": _MEMORY, "size": machine.memory << 20}
    return ["-object", json.dumps(backend), "-machine", f"memory-backend={_MEMORY}"]


def payload(boot: Boot) -> list[str]:
    """The kernel, its initramfs, device tree and arguments."""
    argv = ["-kernel", str(boot.image), "-initrd", str(boot.initrd)]
    argv += ["-dtb", str(boot.dtb)] if boot.dtb else []
    return [*argv, "-append", boot.command_line, "-no-reboot"]


def channels(machine: Machine) -> list[str]:
    """Kernel console, command and kmsg channel, on chardevs ``console``, ``command``
    and ``kmsg``.

    The channels are virtio-serial ports behind virtio-mmio, which is not behind
    the IOMMU: no change to PCI or to the SMMU can cut the harness off.
    """
    argv = ["-serial", "chardev:console"]
    if machine.single_console:
        return argv
    argv += ["-device", "virtio-serial-device"]
    for name in ("command", "kmsg"):
        argv += ["-device", f"virtserialport,chardev={name},name=harness.{name}"]
    return argv


def chardevs(machine: Machine) -> tuple[str, ...]:
    """The chardevs that ``channels`` needs."""
    return ("console",) if machine.single_console else ("console", "command", "kmsg")


def on_a_terminal(boot: Boot) -> list[str]:
    """The same machine with its kernel console on the terminal, for people."""
    return [*board(boot.machine), *payload(boot), "-serial", "mon:stdio"]
