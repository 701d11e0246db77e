# SPDX-License-Identifier: GPL-2.0-only
"""What a guest lacks and a report needs: then a claim cannot be judged here."""

import re
from collections.abc import Sequence

from harness.guest.guest import Step
from harness.kernel.artifact import Kernel
from harness.klog.splat import Splat
from harness.report import fact, shell
from harness.report.claim import Claim
from harness.report.part import Command
from harness.repro.names import Names

# What a kind of report takes of a kernel, and the variant that has it.
_DETECTORS = {
    "KASAN": ("KASAN", "--variant kasan"),
    "lockdep": ("PROVE_LOCKING", "--variant lockdep"),
    "kmemleak": ("DEBUG_KMEMLEAK", "--variant kmemleak"),
    "KFENCE": ("KFENCE", "--fragment FILE with CONFIG_KFENCE=y"),
    "KCSAN": ("KCSAN", "--fragment FILE with CONFIG_KCSAN=y"),
    "KMSAN": ("KMSAN", "--fragment FILE with CONFIG_KMSAN=y"),
    "UBSAN": ("UBSAN", "--fragment FILE with CONFIG_UBSAN=y"),
}
_ATOMIC = re.compile(r"sleeping function called|scheduling while atomic")

# The status of a command that the shell cannot find.
_NOT_FOUND = 127

_UNKNOWN_PARAMETER = re.compile(r"(?P<module>[\w-]+): unknown parameter '(?P<name>\w+)' ignored")
_BAD_OPTION = re.compile(r"(?P<program>[\w-]+): (?:invalid|unrecognized|unknown) option:? .*")
_SYSFS_DRIVER = re.compile(r"/sys/bus/\w+/drivers/(?P<name>[\w-]+)|/sys/module/(?P<module>[\w-]+)")
# Files that the kernel brings: that one is missing is what the kernel does.
_KERNELS = re.compile(
    r"/sys/(?:kernel/iommu_groups|class/iommu|bus|kernel/debug|firmware|devices|power)\b|/dev/(?:iommu|vfio)|/proc/\d*/\b"
)


def detector(reported: Splat, kernel: Kernel) -> str:
    """Why the kernel cannot make such a report, "" where it can."""
    option, hint = _DETECTORS.get(reported.kind, ("", ""))
    if _ATOMIC.search(reported.text[0]):
        option, hint = "DEBUG_ATOMIC_SLEEP", "--variant lockdep"
    if not option or kernel.option(option):
        return ""
    return f"{kernel.label} is built without CONFIG_{option}; try {hint}"


# Whose messages no guest of ours has: other architectures' IOMMUs, and devices that QEMU
# does not emulate.
_HARDWARE = re.compile(
    r"\b(?P<name>DMAR|AMD-Vi|IVRS|intel[-_]iommu|i915|amdgpu|radeon|nouveau|nvidia|mlx[45]_\w+|"
    r"mpt3sas|megaraid_sas|ixgbe|i40e|ice|bnxt_en|hns3|hisi_\w+|qcom\S*|rockchip\S*|exynos\S*)\b"
)


def hardware(message: str) -> str:
    """The hardware that a kernel message is about and no guest has, in words, or ""."""
    match = _HARDWARE.search(message)
    return f"the guest has no hardware of {match['name']}" if match else ""


# A device's driver before it, or a driver whose name says that it is none of the kernel's own
# parts; a device without a driver has its bus there.
_SPEAKER = re.compile(
    r"(?:([a-z][\w-]+) \S{0,60}?\d\S{0,60}(?: \S+)?|([a-z][a-z\d]*(?:[_-][a-z\d]+)+)): "
)
_BUSES = re.compile(r"acpi|amba|cpu|i2c|mdio_bus|net|of|pci|platform|scsi|spi|usb|virtio")


def driver(message: str, kernel: Kernel) -> str:
    """The driver that says the kernel message and no guest has, in words, or ""."""
    match = _SPEAKER.match(message)
    name = (match[1] or match[2]) if match else ""
    if not name or _BUSES.fullmatch(name) or not module(name, kernel):
        return ""
    return f"the guest has no driver {name}"


def of(
    command: Command,
    step: Step,
    own: Sequence[Claim],
    *,
    reported: str,
    names: Names,
    kernel: Kernel,
) -> str:
    """What the step needs that the guest does not have, in words, or "": what the report's
    machine did not have either is none. ``own`` are the claims about the step, ``reported`` is
    all that the report shows; what is only context does not count."""
    if own and all(each.kind == "context" for each in own):
        return ""
    unclear = names.about(command.text)
    if unclear:
        return unclear
    said_there = {fact.of(line) for line in reported.splitlines()}
    for line in step.err.splitlines():
        said = fact.of(line)
        found = _missing(said, step, kernel) if said and said not in said_there else ""
        option = _BAD_OPTION.match(line.strip())
        if option and line.strip() not in command.output:
            found = f"the guest's {option['program']} has no such option: {line.strip()[:120]}"
        if found:
            return found
    return _parameter(reported, step)


def _missing(said: fact.Fact, step: Step, kernel: Kernel) -> str:
    if said.kind == fact.NO_COMMAND and _is_not_found(said, step):
        return f"the guest has no {said.subject}"
    if said.kind == fact.NO_MODULE:
        return f"the guest has no module {said.subject}"
    if said.kind != fact.NO_FILE:
        return ""
    driver = _SYSFS_DRIVER.match(said.subject)
    if driver:
        name = driver["name"] or driver["module"]
        return f"the guest has no driver {name}" if module(name, kernel) else ""
    if _KERNELS.match(said.subject):
        return ""
    return f"the guest has no {said.subject}"


def _is_not_found(said: fact.Fact, step: Step) -> bool:
    """Whether it is the shell's own message: about a program that the command starts."""
    return step.status == _NOT_FOUND or said.subject in shell.programs(step.command)


def module(name: str, kernel: Kernel) -> str:
    """The module, where the kernel does not have it, "" where it does."""
    plain = name.replace("-", "_")
    files = [*kernel.modules.rglob("*.ko*"), *kernel.guest_modules]
    if any(path.name.partition(".")[0].replace("-", "_") == plain for path in files):
        return ""
    builtin = kernel.modules / "modules.builtin"
    text = builtin.read_text().replace("-", "_") if builtin.exists() else ""
    return "" if f"/{plain}.ko" in text or plain in _WITHOUT_MODULE else name


# Drivers that are built in without a module of their name (pcie_portdriver, virtio_pci).
_WITHOUT_MODULE = frozenset({"pcieport", "virtio_pci"})


def _parameter(reported: str, step: Step) -> str:
    """A module's parameter that this kernel's module does not have (kernel/params.c)."""
    for record in step.kmsg:
        match = _UNKNOWN_PARAMETER.search(record.text)
        if match and match[0] not in reported:
            return f"the guest's {match['module']} has no parameter {match['name']}"
    return ""
