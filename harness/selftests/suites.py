# SPDX-License-Identifier: GPL-2.0-only
"""The suites of a kernel's own tests, and the tests of each suite that a kernel has."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.guest.guest import Guest
from harness.iommu import clients, vfio
from harness.kernel import elf
from harness.kernel.artifact import Kernel
from harness.selftests.programs import Programs

# The kernel variant with the tests (kconfigs/selftests.config).
VARIANT = "selftests"

# The directory of the programs in a guest.
GUEST_DIRECTORY = "selftests"


@dataclass(frozen=True, slots=True)
class Suite:
    """Tests of one kind, described by ``summary``. ``directory`` below tools/testing/selftests has
    its programs, "" for KUnit modules. ``requires`` are options without which no test of the suite
    works."""

    name: str
    summary: str
    directory: str = ""
    requires: tuple[str, ...] = ()


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "iommu",
            "iommufd with a mock IOMMU",
            "iommu",
            ("IOMMUFD", "IOMMUFD_TEST"),
        ),
        Suite(
            "vfio",
            "VFIO with a PCI device behind the machine's IOMMU",
            "vfio",
            ("VFIO_PCI", "IOMMUFD", "VFIO_DEVICE_CDEV"),
        ),
        Suite("kunit", "the KUnit modules of drivers/iommu and drivers/vfio"),
    )
}


# Tests that run when the kernel boots, by name: the option that enables the test, and the pattern
# of the message with its result (io-pgtable-arm.c, arm_lpae_do_selftests).
BOOT_TESTS = {
    "io-pgtable-arm": (
        "IOMMU_IO_PGTABLE_LPAE_SELFTEST",
        re.compile(r".*selftest: completed with (?P<passed>\d+) PASS (?P<failed>\d+) FAIL"),
    )
}


@dataclass(frozen=True, slots=True)
class Selftest:
    """A test. ``program`` is the file of a kselftest program; without one, ``name`` is a KUnit
    module, or a test of BOOT_TESTS if ``at_boot``. ``unavailable`` is why it cannot run on the
    kernel, "" if it can. ``broken`` is the compiler's error if it does not compile."""

    suite: str
    name: str
    program: Path | None = None
    at_boot: bool = False
    unavailable: str = ""
    broken: str = ""

    @property
    def title(self) -> str:
        return f"{self.suite}/{self.name}"


def named(names: Sequence[str]) -> list[Suite]:
    """The suites with these names, or all suites if there are no names. Raises UsageError for an
    unknown name."""
    for name in names:
        if name not in SUITES:
            raise UsageError(f"unknown suite {name!r}", f"use {', '.join(SUITES)}")
    return [SUITES[name] for name in names or SUITES]


def tests(suite: Suite, kernel: Kernel, programs: Mapping[str, Programs]) -> list[Selftest]:
    """The tests of the suite that the kernel has. If it has none, one test with the name of the
    suite has the reason."""
    missing = [option for option in suite.requires if not kernel.option(option)]
    if missing:
        return [Selftest(suite.name, "all", unavailable=f"requires CONFIG_{missing[0]}")]
    if not suite.directory:
        found = [Selftest(suite.name, name) for name in _kunit_modules(kernel)]
        enabled = (name for name, (option, _) in BOOT_TESTS.items() if kernel.option(option))
        found += [Selftest(suite.name, name, at_boot=True) for name in enabled]
        return found or [Selftest(suite.name, "all", unavailable="this kernel has no such test")]
    built = programs[suite.directory]
    found = [Selftest(suite.name, name, program=file) for name, file in built.files.items()]
    found += [Selftest(suite.name, name, broken=error) for name, error in built.broken.items()]
    reason = f"this tree has no tools/testing/selftests/{suite.directory}"
    return sorted(found, key=lambda each: each.name) or [
        Selftest(suite.name, "all", unavailable=reason)
    ]


def _kunit_modules(kernel: Kernel) -> Iterator[str]:
    """The modules of the code under test that depend on kunit."""
    for directory in ("iommu", "vfio"):
        for file in sorted((kernel.modules / "kernel/drivers" / directory).rglob("*.ko")):
            if "kunit" in elf.read(file).value("depends").split(","):
                yield file.stem


def command(test: Selftest, guest: Guest) -> str:
    """Prepare the guest for the test, and return the command that runs it. Raises UsageError if the
    guest has no device for it."""
    if test.at_boot:
        return ":"
    if test.program is None:
        # Without the parameters, a kernel without CONFIG_KUNIT_DEFAULT_ENABLED and
        # CONFIG_KUNIT_AUTORUN_ENABLED runs no tests.
        return f"modprobe kunit enable=1 autorun=1; modprobe {test.name}"
    words = [f"/{GUEST_DIRECTORY}/{test.name}"]
    if test.suite == "vfio":
        words.append(_vfio_device(guest))
    guest.run("modprobe iommufd; echo 200 > /proc/sys/vm/nr_hugepages")
    return shlex.join(words)


def _vfio_device(guest: Guest) -> str:
    """Bind the last PCI device to vfio-pci, and return its name."""
    guest.run(f"modprobe {guest.machine.iommu.driver}")
    names = clients.pci(guest.state())
    if not names:
        raise UsageError(f"{guest.machine.name} has no PCI device for VFIO", "use smmuv3+nic")
    name = max(names)
    vfio.bind_vfio(guest, name)
    return name
