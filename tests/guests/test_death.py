# SPDX-License-Identifier: GPL-2.0-only
"""Guests that die: told at once, for what it was, with nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import GuestHang, GuestLost, GuestPanic, QemuEnded
from harness.guest.guest import Guest
from harness.iommu import traffic
from harness.kernel.artifact import Kernel
from harness.klog import splat
from harness.plugin.plugin import GuestFactory
from tests.conftest import MACHINES
from tests.processes import alive, wait_until

PANIC = "echo c > /proc/sysrq-trigger"
# On a single console other text may come between.
panics = pytest.mark.splats("panic in *")


@panics
@pytest.mark.parametrize("name", MACHINES)
def test_a_panic_is_told_with_its_log(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name], limit=300)
    started = time.monotonic()
    with pytest.raises(GuestPanic, match="sysrq triggered crash") as caught:
        guest.run(PANIC)
    assert time.monotonic() - started < 100, "waited for a time-out that was decided"
    assert "Call trace" in caught.value.log
    assert "panic" in [
        found.kind
        for found in splat.find(re.sub(r"(?m)^\[.*?\] ", "", caught.value.log).splitlines())
    ]


@panics
@pytest.mark.parametrize("name", MACHINES)
def test_a_panic_that_does_not_reset_is_told_too(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name], arguments="panic=0", limit=300)
    with pytest.raises(GuestPanic, match="sysrq triggered crash"):
        guest.run(PANIC)


@panics
@pytest.mark.parametrize("name", MACHINES)
def test_a_dead_guest_stays_dead(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name])
    for _ in range(3):
        with pytest.raises(GuestPanic):
            guest.run(PANIC)


@pytest.mark.parametrize(
    ("command", "word"), [("poweroff -f", "guest-shutdown"), ("reboot -f", "guest-reset")]
)
def test_a_guest_that_shuts_itself_down_is_lost(smmuv3: Guest, command: str, word: str) -> None:
    with pytest.raises(GuestLost, match=word):
        smmuv3.run(command)


@pytest.mark.parametrize("name", MACHINES)
def test_a_killed_qemu_is_told_as_such(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name])
    os.kill(guest.pid, signal.SIGKILL)
    with pytest.raises(QemuEnded, match="QEMU ended by SIGKILL"):
        guest.run("true")


@pytest.mark.parametrize("name", MACHINES)
def test_silence_beyond_the_limit_is_a_hang(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name], limit=1)
    with pytest.raises(GuestHang, match="silent for 1 s"):
        guest.run("sleep 1000")


@pytest.mark.parametrize("name", MACHINES)
def test_a_guest_that_has_hung_is_asked_again_only_when_it_answers(
    guest_factory: GuestFactory, name: str
) -> None:
    guest = guest_factory(MACHINES[name], limit=3)
    guest.qmp("stop")
    asked = guest.directory / "console-command.log"
    looks = asked.read_bytes().count(b"S ")
    for ask in (lambda: guest.run("true"), guest.state, guest.kmsg):
        with pytest.raises(GuestHang, match="silent for 3 s"):
            ask()
    assert asked.read_bytes().count(b"S ") == looks
    guest.qmp("cont")
    assert guest.run("echo back").out == b"back\n"


def test_a_command_that_hung_is_waited_for_before_the_next(smmuv3: Guest) -> None:
    """Its output is not the next one's, nor is its status."""
    with pytest.raises(GuestHang, match="silent for 1 s"):
        smmuv3.run("sleep 2; echo late; false", limit=1)
    assert smmuv3.kmsg()
    reply = smmuv3.run("echo next")
    assert (reply.out, reply.number) == (b"next\n", 0)


def test_a_shell_that_hangs_is_not_given_another_command(guest_factory: GuestFactory) -> None:
    guest = guest_factory("smmuv3", "modprobe arm-smmu-v3", limit=1)
    for command in ("sleep 1000", "echo too much"):
        with pytest.raises(GuestHang, match="silent for 1 s"):
            guest.run(command)
    assert b"too much" not in (guest.directory / "console-command.log").read_bytes()
    assert "arm_smmu_v3" in guest.state().modules


def test_a_command_that_spins_is_a_hang(guest_factory: GuestFactory) -> None:
    guest = guest_factory("smmuv3", limit=1)
    with pytest.raises(GuestHang):
        guest.run("while :; do :; done")


def test_a_command_that_is_silent_while_the_kernel_talks_is_a_hang(
    guest_factory: GuestFactory,
) -> None:
    guest = guest_factory("smmuv3", limit=2)
    with pytest.raises(GuestHang, match="only the kernel has said anything for 8 s"):
        guest.run("while usleep 300000; do echo still here > /dev/kmsg; done")


@pytest.mark.splats("hung task in *")
def test_a_kernel_that_tells_of_a_blocked_task_is_no_sign_of_life(
    guest_factory: GuestFactory,
) -> None:
    guest = guest_factory("smmuv3", limit=2)
    told = "INFO: task ip:89 blocked for more than 15 seconds."
    with pytest.raises(GuestHang, match="silent for 2 s"):
        guest.run(f"while usleep 300000; do echo '{told}' > /dev/kmsg; done")


def test_a_command_that_never_ends_is_a_hang(guest_factory: GuestFactory) -> None:
    guest = guest_factory("smmuv3", limit=60)
    with pytest.raises(GuestHang, match="has printed 67 MB"):
        guest.run("cat /dev/zero")


@pytest.mark.parametrize("name", MACHINES)
def test_a_command_that_shows_life_is_no_hang(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name], limit=1)
    reply = guest.run("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.4; done")
    assert reply.out.split() == [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"]


def test_a_kernel_that_cannot_boot_is_told_with_its_log(guest_factory: GuestFactory) -> None:
    words = r"[Nn]o working init|Requested init|mount root fs"
    with pytest.raises(GuestPanic, match=words) as caught:
        guest_factory("smmuv3", arguments="rdinit=/nope init=/nope")
    assert "Kernel panic" in caught.value.log


BOOTS_AND_WAITS = """
import sys, time
from pathlib import Path
from harness.guest import guest
from harness.kernel import artifact
from harness.machine import topology
kernel = artifact.load(Path(sys.argv[1]))
with guest.booted(kernel, machines.named("smmuv3"), Path(sys.argv[2])) as running:
    print(running.pid, flush=True)
    running.run("sleep 1000", limit=1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_qemu_dies_with_us(kernel: Kernel, tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", BOOTS_AND_WAITS, str(kernel.directory), str(tmp_path)]
    ours = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert ours.stdout
    pid = int(ours.stdout.readline())
    assert Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system")
    ours.send_signal(number)
    ours.wait(10)
    assert wait_until(lambda: not alive(pid)), "QEMU outlived us"


@panics
def test_a_panic_while_qemu_is_asked_is_still_a_panic(smmuv3: Guest) -> None:
    with pytest.raises(GuestPanic, match="sysrq triggered crash"), traffic.witnessed(smmuv3):
        smmuv3.run(PANIC)
    with pytest.raises(GuestPanic, match="sysrq triggered crash"):
        smmuv3.qmp("query-status")
