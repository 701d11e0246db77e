# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts, including inconclusive ones because the guest lacks a program or module."""

import pytest

from harness.errors import GuestLost
from tests.unit.judging import command, step, verdict_of


def test_decide_returns_reproduced_not_reproduced_or_inconclusive() -> None:
    good, bad = command("a"), command("b")
    done = step(out="a\n")
    assert verdict_of([good], [done]).word == "reproduced"
    found = verdict_of([good, bad], [done, done])
    assert (found.word, found.exit_code) == ("not-reproduced", 1)
    assert "step 2" in found.reason
    lacking = step(127, err="/proc/self/fd/8: eval: line 2: lspci: not found\n")
    found = verdict_of([bad], [lacking])
    assert (found.word, found.exit_code) == ("inconclusive", 3)
    assert "the guest has no lspci" in found.reason
    assert verdict_of([command()], [step()]).word == "inconclusive"


@pytest.mark.parametrize(
    "error",
    [
        "modprobe: FATAL: Module my_driver not found in directory /lib/modules/6.12.117",
        "modprobe: module my_driver not found in modules.dep",
        "insmod: can't insert './my-driver.ko': No such file or directory",
    ],
)
def test_a_missing_module_makes_the_verdict_inconclusive(error: str) -> None:
    """Later steps differ because the module is missing, whatever the kernel does."""
    found = verdict_of([command(status=0), command("in use")], [step(1, err=error), step(0)])
    assert found.word == "inconclusive"
    assert "the guest has no module my_driver" in found.reason


def test_an_in_use_claim_about_a_missing_module_is_inconclusive() -> None:
    reported = command("rmmod: ERROR: Module nvidia is in use")
    found = verdict_of(
        [reported], [step(1, err="rmmod: ERROR: Module nvidia is not currently loaded")]
    )
    assert (found.word, "no module nvidia" in found.reason) == ("inconclusive", True)


def test_a_status_that_matches_because_a_module_is_missing_is_inconclusive() -> None:
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    assert verdict_of([command(status=1)], [lacking]).word == "inconclusive"


def test_a_difference_before_a_missing_module_is_judged() -> None:
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    found = verdict_of([command("in use"), command(status=0)], [step(0), lacking])
    assert found.word == "not-reproduced"


def test_a_difference_after_a_module_that_the_report_also_lacks_is_judged() -> None:
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    reported = command("modprobe: FATAL: Module my_driver not found.", "and more", status=1)
    assert verdict_of([reported], [lacking]).word == "not-reproduced"


def test_a_report_of_a_missing_module_can_be_reproduced() -> None:
    error = "modprobe: FATAL: Module my_driver not found in directory /lib/modules/6.12.117"
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    assert verdict_of([command(error)], [lacking]).word == "reproduced"


def test_losing_the_guest_makes_the_verdict_inconclusive() -> None:
    reported = command("[ 1.0] Kernel panic - not syncing: Fatal exception in interrupt")
    assert (
        verdict_of([reported], [], GuestLost("QEMU was killed by SIGKILL")).word == "inconclusive"
    )
