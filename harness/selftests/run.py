# SPDX-License-Identifier: GPL-2.0-only
"""Run a kernel's own tests in guests, each test in a guest of its own."""

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import GuestError, GuestHang, GuestPanic, HarnessError, is_host_trouble
from harness.guest import launch
from harness.guest.guest import Guest
from harness.iommu import audit
from harness.iommu.finding import Finding
from harness.kernel.artifact import Kernel
from harness.klog import splat
from harness.klog.splat import Splat
from harness.machine import qemu
from harness.machine.device import EmulatedDevice
from harness.machine.qemu import Boot
from harness.machine.topology import Machine
from harness.rootfs import cpio
from harness.selftests import ktap, suites
from harness.selftests.ktap import Report, Subtest
from harness.selftests.suites import Selftest
from harness.suite.scenario_result import ScenarioResult

# vfio_pci_driver_test maps a buffer of 1 GiB, the iommufd selftests 200 huge pages.
_MEMORY = 3072  # MiB

# How many seconds a test may neither print nor log anything. Single tests copy gigabytes.
SILENCE = 120.0

# QEMU has emulated this NIC since 8.0, and the VFIO selftests have had a driver for it since 7.3.
_IGB = "igb"


@dataclass(frozen=True, slots=True)
class SelftestOutcome:
    """The result of a test on a kernel and machine, with the ``reason``. ``splats`` have the title
    of each unexpected splat, with the subtest during which it appears."""

    suite: str
    name: str
    kernel: str
    machine: str
    result: ScenarioResult
    reason: str = ""
    seconds: float = 0.0
    subtests: tuple[Subtest, ...] = ()
    splats: tuple[str, ...] = ()


def fitted(machine: Machine) -> Machine:
    """The machine with the memory that the tests need, and with a device that the VFIO selftests
    have a driver for, if QEMU has one."""
    has_igb = _IGB in qemu.models(machine.qemu)
    more = (EmulatedDevice(_IGB),) if has_igb else ()
    return replace(machine, memory=max(machine.memory, _MEMORY), devices=machine.devices + more)


def run(
    test: Selftest, spec: str, kernel: Kernel, machine: Machine, directory: Path
) -> SelftestOutcome:
    """Run one test on the ``fitted`` machine, with logs in ``directory``. Errors become the result:
    if the guest does not boot, the test fails; an error on this host makes it inconclusive."""
    outcome = SelftestOutcome(test.suite, test.name, spec, machine.label, ScenarioResult.PASSED)
    if test.unavailable:
        return replace(outcome, result=ScenarioResult.NOT_APPLICABLE, reason=test.unavailable)
    if test.broken:
        reason = f"it does not compile: {test.broken}"
        return replace(outcome, result=ScenarioResult.INCONCLUSIVE, reason=reason)
    started = time.monotonic()
    try:
        judged = _run(test, outcome, kernel, machine, directory)
    except HarnessError as error:
        is_finding = isinstance(error, GuestError) and not is_host_trouble(error)
        result = ScenarioResult.FAILED if is_finding else ScenarioResult.INCONCLUSIVE
        judged = replace(outcome, result=result, reason=str(error))
    return replace(judged, seconds=round(time.monotonic() - started, 3))


def _run(
    test: Selftest, outcome: SelftestOutcome, kernel: Kernel, machine: Machine, directory: Path
) -> SelftestOutcome:
    boot = launch.boot_of(kernel, machine)
    with (
        _with_program(boot, test) as prepared,
        launch.booted_from(prepared, directory, limit=SILENCE) as guest,
    ):
        before, end = 0, End()
        try:
            command = suites.command(test, guest)
            before = 0 if test.at_boot else len(guest.kmsg())
            end = End(guest.run(_logged(command) if test.program else command).status)
            if test.program:
                end = replace(end, findings=tuple(_audit(guest)))
            records = guest.kmsg()
        except GuestError as failure:
            end, records = replace(end, error=failure), guest.kmsg_read
        texts = [line for each in records[before:] for line in each.text.split("\n")]
        report = _boot_report(test, texts) if test.at_boot else ktap.parse(texts)
        return judge(outcome, report, splat.find(texts), end)


@dataclass(frozen=True, slots=True)
class End:
    """How a test ended: the exit status of its command, the findings of the audit, and the error
    that ended its guest."""

    status: int = 0
    findings: tuple[Finding, ...] = ()
    error: GuestError | None = None


# The IOMMU that iommufd registers for its tests (iommufd_test_init).
_MOCK = "iommufd_selftest_iommu"


def _audit(guest: Guest) -> list[Finding]:
    """Check the rules that hold for every guest, then remove all devices and unload the driver.
    (A KUnit module uses the driver itself, so its references differ.)"""
    state = guest.state()
    found = [*audit.findings(guest.machine, state), *audit.untranslated(state)]
    found = found or audit.teardown(guest, state)
    return [each for each in found if not each.subject.startswith(_MOCK)]


def _boot_report(test: Selftest, texts: Sequence[str]) -> Report:
    """The result that a test printed when the kernel booted."""
    _, pattern = suites.BOOT_TESTS[test.name]
    for number, text in enumerate(texts):
        if match := pattern.match(text):
            result = ktap.Result.FAILED if int(match["failed"]) else ktap.Result.PASSED
            name = f"{match['passed']} pass, {match['failed']} fail"
            return Report((Subtest(name, result, line=number),))
    return Report((), missing=1)


@contextlib.contextmanager
def _with_program(boot: Boot, test: Selftest) -> Iterator[Boot]:
    """Yield the boot with the program in addition to its initramfs, in a temporary file. The
    kernel unpacks all archives of an initramfs."""
    if test.program is None:
        yield boot
        return
    entries = [
        cpio.directory(suites.GUEST_DIRECTORY),
        cpio.file(f"{suites.GUEST_DIRECTORY}/{test.name}", test.program.read_bytes(), 0o755),
    ]
    with tempfile.TemporaryDirectory(prefix="iommu-harness-") as scratch:
        file = Path(scratch) / "initramfs.cpio"
        file.write_bytes(boot.initrd.read_bytes() + cpio.archive(entries))
        yield replace(boot, initrd=file)


def _logged(command: str) -> str:
    """The command, with its output in the kernel log: there it is in order with the kernel's own
    messages, and survives a panic. By default the kernel drops most of such output
    (printk_devkmsg)."""
    return (
        "echo on > /proc/sys/kernel/printk_devkmsg;"
        f" {{ {command} 2>&1; echo $? > /tmp/status; }} |"
        # The last line may lack its newline.
        ' while IFS= read -r line || [ -n "$line" ];'
        " do printf '%s\\n' \"$line\" > /dev/kmsg; done; exit_with() { return $1; };"
        " exit_with $(cat /tmp/status)"
    )


def judge(
    outcome: SelftestOutcome, report: Report, found: Sequence[Splat], end: End
) -> SelftestOutcome:
    """Judge a test by its subtests, the splats ``found`` and its end."""
    splats = tuple(_splats(found, report.subtests))
    judged = replace(outcome, subtests=report.subtests, splats=splats)
    if is_host_trouble(end.error):
        return replace(judged, result=ScenarioResult.INCONCLUSIVE, reason=str(end.error))
    reasons = list(_reasons(judged, report.missing, end))
    if reasons:
        return replace(judged, result=ScenarioResult.FAILED, reason="\n".join(reasons))
    if all(each.result == ktap.Result.SKIPPED for each in report.subtests):
        reason = report.subtests[0].reason if report.subtests else "it has no subtests"
        return replace(judged, result=ScenarioResult.NOT_APPLICABLE, reason=reason)
    return judged


def _splats(found: Sequence[Splat], subtests: Sequence[Subtest]) -> Iterator[str]:
    """Describe each splat once, except notices: the tests provoke memory shortage."""
    texts = []
    for each in found:
        if each.severity != "notice":
            during = next((sub.name for sub in subtests if sub.line >= each.first), "")
            texts.append(f"{each.title} (during {during})" if during else each.title)
    for text, count in Counter(texts).items():
        yield f"{text}, {count} times" if count > 1 else text


def _reasons(judged: SelftestOutcome, missing: int, end: End) -> Iterator[str]:
    failed = [each for each in judged.subtests if each.result == ktap.Result.FAILED]
    for each in failed:
        yield ": ".join([each.name, each.reason.replace("\n", "; ")]).removesuffix(": ")
    yield from judged.splats
    yield from (each.text for each in end.findings)
    if end.error:
        yield f"{_what(end.error)} after {len(judged.subtests)} subtests: {end.error.message}"
    elif missing:
        yield f"{missing} subtests have no result; the exit status is {end.status}"
    elif end.status not in _ENDED and not failed:
        yield f"the exit status is {end.status}, but no subtest fails"


# The exit statuses of a test that passes and of one that is skipped (KSFT_PASS, KSFT_SKIP).
_ENDED = (0, 4)


def _what(error: GuestError) -> str:
    if isinstance(error, GuestPanic):
        return "panic"
    return "hang" if isinstance(error, GuestHang) else "the guest ended"
