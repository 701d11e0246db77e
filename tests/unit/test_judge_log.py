# SPDX-License-Identifier: GPL-2.0-only
"""Judging claims about the kernel log."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import GuestPanic
from harness.report.claim import Claim
from harness.repro import missing
from tests.unit.judging import KERNEL, OOPS, command, difference, judged, step, verdict_of


def warning(comm: str) -> tuple[str, ...]:
    return (
        "------------[ cut here ]------------",
        "WARNING: CPU: 0 PID: 35 at drivers/iommu/iommu.c:634 some_function+0x70/0xa8",
        f"CPU: 0 UID: 0 PID: 35 Comm: {comm} Not tainted 6.12.117 #1",
        "pc : some_function+0x70/0xa8",
        "lr : some_function+0x38/0xa8",
        "Call trace:",
        " some_function+0x70/0xa8",
        "---[ end trace 0000000000000000 ]---",
    )


@pytest.mark.parametrize(
    ("number", "comm", "same"),
    [(0, "rmmod", True), (1, "rmmod", True), (2, "rmmod", False), (2, "kworker/0:1", True)],
)
def test_a_splat_matches_in_a_later_step_if_a_worker_reports_it(
    number: int, comm: str, same: bool
) -> None:
    shown = command(*(f"[    6.1] {line}" for line in warning("rmmod")))
    steps = [step(kmsg=warning(comm) if each == number else ()) for each in range(3)]
    found = judged([command(), shown, command()], steps)
    assert [each.held for each in found if each.claim.kind == "splat"] == [same]


ADDED = "[    1.5] e1000e 0000:00:01.0: Adding to iommu group 0"


@pytest.mark.parametrize(
    ("text", "reported", "same"),
    [
        ("dmesg | grep 'iommu group'", (ADDED, ADDED), True),
        ("dmesg | grep 'iommu group'", (ADDED,), False),
        ("dmesg | grep 'iommu group'", (ADDED, "..."), True),
        ("dmesg | grep 'iommu group' | tail -1", (ADDED,), True),
        ("dmesg", (ADDED,), True),
    ],
)
def test_filtered_messages_must_appear_as_often_as_reported(
    text: str, reported: tuple[str, ...], same: bool
) -> None:
    done = replace(step(out=f"{ADDED}\n{ADDED}\n[ 2.0] other\n"), command=text)
    assert (difference(command(*reported, text=text), done) is None) is same


def test_kernel_messages_match_without_timestamps() -> None:
    done = step(kmsg=("one", "two", "three"))
    assert difference(command("[   12.345678] one", "[   13.000000] three"), done) is None
    assert difference(command("[    1.0][   T71] two"), done) is None
    assert difference(command("[    1.0] four"), done)


@pytest.mark.parametrize("reported", [OOPS, ("Segmentation fault",), ("Killed",)])
def test_a_killed_command_matches_a_reported_oops_or_kill(reported: tuple[str, ...]) -> None:
    done = step(139, killed=True, kmsg=(OOPS[0].partition("] ")[2],))
    assert difference(command(*reported), done) is None


def test_a_panic_must_have_the_reported_reason() -> None:
    reported = command("[ 1.0] Kernel panic - not syncing: Fatal exception in interrupt")
    same, other = GuestPanic("Fatal exception in interrupt"), GuestPanic("sysrq triggered crash")
    assert verdict_of([reported], [], same).word == "reproduced"
    assert verdict_of([reported], [], other).word == "not-reproduced"
    assert verdict_of([command("x")], [], other).word == "inconclusive"


def test_kernel_messages_match_with_another_virtio_number() -> None:
    done = step(kmsg=("virtio_iommu virtio1: input address: 64 bits",))
    assert difference(command("[ 2.0] virtio_iommu virtio0: input address: 64 bits"), done) is None


WARNED = "WARNING: CPU: 0 PID: 35 at drivers/iommu/iommu.c:634 some_function+0x70/0xa8"


@pytest.mark.parametrize(
    ("kmsg", "same"), [((), False), ((WARNED,), False), ((OOPS[0].partition("] ")[2],), True)]
)
def test_a_claimed_oops_requires_an_oops(kmsg: tuple[str, ...], same: bool) -> None:
    reported = Claim("splat", "the kernel oopses", "line 1", 0)
    (found,) = judged([command()], [step(kmsg=kmsg)], claims=[reported])
    assert found.held is same


@pytest.mark.parametrize("error", [None, GuestPanic("Fatal exception")])
def test_a_claimed_panic_requires_a_panic(error: GuestPanic | None) -> None:
    reported = Claim("panic", "the kernel panics", "line 1", 0)
    (found,) = judged([command()], [step()], error, claims=[reported])
    assert found.held is (error is not None)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("acme_gpu 1c000000.gpu: Adding to iommu group 1", "acme_gpu"),
        ("acme 0000:01:00.0 eth1: link is up", "acme"),
        ("acme_dma: cannot attach domain", "acme_dma"),
        ("e1000e 0000:00:01.0: Adding to iommu group 0", ""),
        ("pci 0000:00:01.0: Adding to iommu group 0", ""),
        ("iommu: Default domain type: Translated", ""),
        ("Kernel panic - not syncing: Fatal exception", ""),
    ],
)
def test_missing_driver_reports_a_driver_that_the_guest_lacks(
    tmp_path: Path, message: str, name: str
) -> None:
    kernel = replace(KERNEL, directory=tmp_path)
    kernel.modules.mkdir(parents=True)
    (kernel.modules / "e1000e.ko").touch()
    why = missing.driver(message, kernel)
    assert why == (f"the guest has no driver {name}" if name else "")


FOREIGN = "[    1.7] acme_gpu 1c000000.gpu: Adding to iommu group 1"
MISSING = "[    1.7] iommu: Adding to iommu group 1"


@pytest.mark.parametrize(
    ("reported", "held"),
    [
        ((ADDED,), True),
        ((ADDED, FOREIGN), None),
        ((ADDED, MISSING), False),
        ((ADDED, FOREIGN, MISSING), False),
        ((FOREIGN, ADDED), None),
    ],
)
def test_a_claim_about_a_driver_that_the_guest_lacks_is_inconclusive(
    reported: tuple[str, ...], held: bool | None
) -> None:
    text = "dmesg | grep 'iommu group'"
    done = replace(step(out=f"{ADDED}\n"), command=text)
    (found,) = judged([command(*reported, text=text)], [done])
    assert found.held is held
