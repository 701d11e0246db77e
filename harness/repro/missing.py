# SPDX-License-Identifier: GPL-2.0-only
"""Find what a report requires but the guest lacks. Claims that depend on it are inconclusive."""

import re

from harness.guest.guest import Step
from harness.kernel.artifact import Kernel
from harness.klog.splat import Splat
from harness.report import error_message, shell_syntax
from harness.report.error_message import ErrorMessage
from harness.repro.session_run import SessionRun

# The config option that a kind of splat requires, and how to build a kernel with it.
_DETECTORS = {
    "KASAN": ("KASAN", "--variant kasan"),
    "lockdep": ("PROVE_LOCKING", "--variant lockdep"),
    "kmemleak": ("DEBUG_KMEMLEAK", "--variant kmemleak"),
    "KFENCE": ("KFENCE", "--fragment FILE with CONFIG_KFENCE=y"),
    "KCSAN": ("KCSAN", "--fragment FILE with CONFIG_KCSAN=y"),
    "KMSAN": ("KMSAN", "--fragment FILE with CONFIG_KMSAN=y"),
    "UBSAN": ("UBSAN", "--fragment FILE with CONFIG_UBSAN=y"),
}
_ATOMIC_SLEEP = re.compile(r"sleeping function called|scheduling while atomic")

# The shell's exit status for "command not found".
_NOT_FOUND = 127

_UNKNOWN_PARAMETER = re.compile(r"(?P<module>[\w-]+): unknown parameter '(?P<name>\w+)' ignored")
_BAD_OPTION = re.compile(r"(?P<program>[\w-]+): (?:invalid|unrecognized|unknown) option:? .*")
_SYSFS_DRIVER = re.compile(r"/sys/bus/\w+/drivers/(?P<name>[\w-]+)|/sys/module/(?P<module>[\w-]+)")
# Files that the kernel creates. If one is absent, that is behaviour of the kernel.
_KERNEL_FILES = re.compile(
    r"/sys/(?:kernel/iommu_groups|class/iommu|bus|kernel/debug|firmware|devices|power)\b"
    r"|/dev/(?:iommu|vfio)|/proc/\d*/\b"
)

# Built-in drivers that are not named like a module (pcie_portdriver, virtio_pci).
_WITHOUT_MODULE = frozenset({"pcieport", "virtio_pci"})


def detector(reported: Splat, kernel: Kernel) -> str:
    """Return why the kernel cannot report such a splat, "" if it can."""
    option, hint = _DETECTORS.get(reported.kind, ("", ""))
    if _ATOMIC_SLEEP.search(reported.text[0]):
        option, hint = "DEBUG_ATOMIC_SLEEP", "--variant lockdep"
    if not option or kernel.option(option):
        return ""
    return f"{kernel.label} is built without CONFIG_{option}; try {hint}"


# Drivers and IOMMUs that no guest has: IOMMUs of other architectures, and devices that QEMU does
# not emulate.
_HARDWARE = re.compile(
    r"\b(?P<name>DMAR|AMD-Vi|IVRS|intel[-_]iommu|i915|amdgpu|radeon|nouveau|nvidia|mlx[45]_\w+|"
    r"mpt3sas|megaraid_sas|ixgbe|i40e|ice|bnxt_en|hns3|hisi_\w+|qcom\S*|rockchip\S*|exynos\S*)\b"
)


def hardware(message: str) -> str:
    """Return which hardware in the kernel message no guest has, "" if none."""
    match = _HARDWARE.search(message)
    return f"the guest has no {match['name']} hardware" if match else ""


# The driver at the beginning of a message: before a device, or alone if its name contains an
# underscore or a hyphen, which the names of subsystems do not. For a device without a driver, the
# name of the bus precedes the device.
_MESSAGE_PREFIX = re.compile(
    r"(?:([a-z][\w-]+) \S{0,60}?\d\S{0,60}(?: \S+)?|([a-z][a-z\d]*(?:[_-][a-z\d]+)+)): "
)
_BUSES = re.compile(r"acpi|amba|cpu|i2c|mdio_bus|net|of|pci|platform|scsi|spi|usb|virtio")


def driver(message: str, kernel: Kernel) -> str:
    """Return the reason if the guest lacks the driver that logs the message, "" otherwise."""
    match = _MESSAGE_PREFIX.match(message)
    name = (match[1] or match[2]) if match else ""
    if not name or _BUSES.fullmatch(name) or not module(name, kernel):
        return ""
    return f"the guest has no driver {name}"


# busybox's shell, on syntax of bash, zsh or csh (shell/ash.c, synexpect).
_SYNTAX_ERROR = re.compile(r": syntax error: ")


def for_step(number: int, run: SessionRun) -> str:
    """Return what the step requires but the guest lacks, "" if nothing.

    What the reporter's machine also lacks does not count. A step that only describes the
    reporter's machine requires nothing.
    """
    command, step = run.commands[number], run.steps[number]
    own = run.claims_about(number)
    if own and all(each.kind == "context" for each in own):
        return ""
    unclear = run.names.why_unclear(command.text)
    if unclear:
        return unclear
    for line in step.err.splitlines():
        option = _BAD_OPTION.match(line.strip())
        if option and line.strip() not in command.output:
            return f"the guest's {option['program']} rejects an option: {line.strip()[:120]}"
        if _SYNTAX_ERROR.search(line) and line.strip() not in command.output:
            return "the command has syntax that the guest's shell does not have"
        error = error_message.parse(line)
        lacks = _by_error(error, step, run.kernel) if error else ""
        if lacks and error not in _reported_errors(run):
            return lacks
    return _parameter(step, run)


def _reported_lines(run: SessionRun) -> list[str]:
    return [line for each in run.commands for line in each.output]


def _reported_errors(run: SessionRun) -> set[ErrorMessage | None]:
    return {error_message.parse(line) for line in _reported_lines(run)}


def _by_error(error: ErrorMessage, step: Step, kernel: Kernel) -> str:
    """Return what the guest lacks according to an error message, "" if nothing."""
    if error.kind == error_message.NO_COMMAND and _is_command_not_found(error, step):
        return f"the guest has no {error.subject}"
    if error.kind == error_message.NO_MODULE:
        return f"the guest has no module {error.subject}"
    if error.kind != error_message.NO_FILE:
        return ""
    driver = _SYSFS_DRIVER.match(error.subject)
    if driver:
        name = driver["name"] or driver["module"]
        return f"the guest has no driver {name}" if module(name, kernel) else ""
    if _KERNEL_FILES.match(error.subject):
        return ""
    return f"the guest has no {error.subject}"


def _is_command_not_found(error: ErrorMessage, step: Step) -> bool:
    """Whether the shell reports the error about a program that the command starts."""
    return step.status == _NOT_FOUND or error.subject in shell_syntax.programs(step.command)


def module(name: str, kernel: Kernel) -> str:
    """Return the name if the kernel lacks this module, "" if it has the module."""
    plain = name.replace("-", "_")
    files = [*kernel.modules.rglob("*.ko*"), *kernel.guest_modules]
    if any(path.name.partition(".")[0].replace("-", "_") == plain for path in files):
        return ""
    builtin = kernel.modules / "modules.builtin"
    text = builtin.read_text().replace("-", "_") if builtin.exists() else ""
    return "" if f"/{plain}.ko" in text or plain in _WITHOUT_MODULE else name


def _parameter(step: Step, run: SessionRun) -> str:
    """Return which module parameter the guest's kernel lacks (kernel/params.c), "" if none."""
    for record in step.kmsg:
        match = _UNKNOWN_PARAMETER.search(record.text)
        if match and match[0] not in "\n".join(_reported_lines(run)):
            return f"the guest's {match['module']} has no parameter {match['name']}"
    return ""
