# SPDX-License-Identifier: GPL-2.0-only
"""Guests that end or hang: the error is raised promptly and contains the reason."""

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
# On a single console, other text can appear between the lines of the panic.
panics = pytest.mark.splats("panic in *")


@panics
@pytest.mark.parametrize("name", MACHINES)
def test_panic_raises_guest_panic_with_its_log(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name], limit=300)
    started = time.monotonic()
    with pytest.raises(GuestPanic, match="sysrq triggered crash") as caught:
        guest.run(PANIC)
    assert time.monotonic() - started < 100, "waited for the limit of a guest that had panicked"
    assert "Call trace" in caught.value.log
    assert "panic" in [
        found.kind
        for found in splat.find(re.sub(r"(?m)^\[.*?\] ", "", caught.value.log).splitlines())
    ]


@panics
@pytest.mark.parametrize("name", MACHINES)
def test_panic_without_a_reset_raises_guest_panic(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name], arguments="panic=0", limit=300)
    with pytest.raises(GuestPanic, match="sysrq triggered crash"):
        guest.run(PANIC)


@panics
@pytest.mark.parametrize("name", MACHINES)
def test_panicked_guest_raises_guest_panic_for_every_command(
    guest_factory: GuestFactory, name: str
) -> None:
    guest = guest_factory(MACHINES[name])
    for _ in range(3):
        with pytest.raises(GuestPanic):
            guest.run(PANIC)


@pytest.mark.parametrize(
    ("command", "word"), [("poweroff -f", "guest-shutdown"), ("reboot -f", "guest-reset")]
)
def test_shutdown_or_reset_raises_guest_lost(smmuv3: Guest, command: str, word: str) -> None:
    with pytest.raises(GuestLost, match=word):
        smmuv3.run(command)


@pytest.mark.parametrize("name", MACHINES)
def test_killed_qemu_raises_qemu_ended(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name])
    os.kill(guest.pid, signal.SIGKILL)
    with pytest.raises(QemuEnded, match="QEMU was killed by SIGKILL"):
        guest.run("true")


@pytest.mark.parametrize("name", MACHINES)
def test_silence_beyond_the_limit_raises_guest_hang(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name], limit=1)
    with pytest.raises(GuestHang, match="silent for 1 s"):
        guest.run("sleep 1000")


@pytest.mark.parametrize("name", MACHINES)
def test_hung_guest_receives_no_request_until_it_replies(
    guest_factory: GuestFactory, name: str
) -> None:
    guest = guest_factory(MACHINES[name], limit=3)
    guest.qmp("stop")
    command_log = guest.directory / "console-command.log"
    requests = command_log.read_bytes().count(b"S ")
    for request in (lambda: guest.run("true"), guest.state, guest.kmsg):
        with pytest.raises(GuestHang, match="silent for 3 s"):
            request()
    assert command_log.read_bytes().count(b"S ") == requests
    guest.qmp("cont")
    assert guest.run("echo back").out == "back\n"


def test_next_command_waits_for_a_hung_command(smmuv3: Guest) -> None:
    """The next command does not return the output and status of the hung command."""
    with pytest.raises(GuestHang, match="silent for 1 s"):
        smmuv3.run("sleep 2; echo late; false", limit=1)
    assert smmuv3.kmsg()
    reply = smmuv3.run("echo next")
    assert (reply.out, reply.status) == ("next\n", 0)


def test_hung_shell_receives_no_further_command(guest_factory: GuestFactory) -> None:
    guest = guest_factory("smmuv3", "modprobe arm-smmu-v3", limit=1)
    for command in ("sleep 1000", "echo too much"):
        with pytest.raises(GuestHang, match="silent for 1 s"):
            guest.run(command)
    assert b"too much" not in (guest.directory / "console-command.log").read_bytes()
    assert "arm_smmu_v3" in guest.state().modules


def test_spinning_command_raises_guest_hang(guest_factory: GuestFactory) -> None:
    guest = guest_factory("smmuv3", limit=1)
    with pytest.raises(GuestHang):
        guest.run("while :; do :; done")


def test_silent_command_raises_guest_hang_even_if_the_kernel_logs(
    guest_factory: GuestFactory,
) -> None:
    guest = guest_factory("smmuv3", limit=2)
    with pytest.raises(GuestHang, match="only the kernel has printed messages for 8 s"):
        guest.run("while usleep 300000; do echo still here > /dev/kmsg; done")


@pytest.mark.splats("hung task in *")
def test_hung_task_messages_do_not_count_as_activity(
    guest_factory: GuestFactory,
) -> None:
    guest = guest_factory("smmuv3", limit=2)
    message = "INFO: task ip:89 blocked for more than 15 seconds."
    with pytest.raises(GuestHang, match="silent for 2 s"):
        guest.run(f"while usleep 300000; do echo '{message}' > /dev/kmsg; done")


def test_endless_output_raises_guest_hang(guest_factory: GuestFactory) -> None:
    guest = guest_factory("smmuv3", limit=60)
    with pytest.raises(GuestHang, match="printed 67 MB"):
        guest.run("cat /dev/zero")


@pytest.mark.parametrize("name", MACHINES)
def test_slow_output_does_not_count_as_a_hang(guest_factory: GuestFactory, name: str) -> None:
    guest = guest_factory(MACHINES[name], limit=1)
    reply = guest.run("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.4; done")
    assert reply.out.split() == ["1", "2", "3", "4", "5", "6", "7", "8"]


def test_failed_boot_raises_guest_panic_with_its_log(guest_factory: GuestFactory) -> None:
    words = r"[Nn]o working init|Requested init|mount root fs"
    with pytest.raises(GuestPanic, match=words) as caught:
        guest_factory("smmuv3", arguments="rdinit=/nope init=/nope")
    assert "Kernel panic" in caught.value.log


BOOT_AND_SLEEP = """
import sys, time
from pathlib import Path
from harness.guest import launch
from harness.iommu import machines
from harness.kernel import artifact
kernel = artifact.load(Path(sys.argv[1]))
with launch.booted(kernel, machines.named("smmuv3"), Path(sys.argv[2])) as running:
    print(running.pid, flush=True)
    running.run("sleep 1000", limit=1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_qemu_does_not_outlive_the_harness(kernel: Kernel, tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", BOOT_AND_SLEEP, str(kernel.directory), str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    pid = int(process.stdout.readline())
    assert Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system")
    process.send_signal(number)
    process.wait(10)
    assert wait_until(lambda: not alive(pid)), "QEMU outlived the harness"


@panics
def test_panic_during_a_qmp_command_raises_guest_panic(smmuv3: Guest) -> None:
    with pytest.raises(GuestPanic, match="sysrq triggered crash"), traffic.dma_traced(smmuv3):
        smmuv3.run(PANIC)
    with pytest.raises(GuestPanic, match="sysrq triggered crash"):
        smmuv3.qmp("query-status")
