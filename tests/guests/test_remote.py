# SPDX-License-Identifier: GPL-2.0-only
"""SSH into a guest, also while its console is busy and after the removal of PCI and the IOMMU."""

import socket
import threading
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from harness.errors import HostError, UsageError
from harness.guest import modules, remote
from harness.guest.guest import Guest
from harness.iommu import machines
from harness.plugin.plugin import GuestFactory

WITH_SSH = replace(machines.named("smmuv3"), name="smmuv3-ssh", ssh=True)


@pytest.fixture
def reachable(guest_factory: GuestFactory) -> Guest:
    return guest_factory(WITH_SSH)


def test_ssh_runs_commands_and_copies_files(reachable: Guest, tmp_path: Path) -> None:
    with remote.connected(reachable) as ssh:
        done = ssh.run("echo out; echo err >&2; exit 3")
        assert (done.status, done.out, done.err) == (3, b"out\n", b"err\n")
        local, back = tmp_path / "local", tmp_path / "back"
        local.write_bytes(bytes(range(256)) * 4000)
        ssh.put(local, "/tmp/it's here")
        ssh.get("/tmp/it's here", back)
        assert back.read_bytes() == local.read_bytes()
        with pytest.raises(HostError, match="cannot write /nowhere/x"):
            ssh.put(local, "/nowhere/x")
        with pytest.raises(HostError, match="cannot read /nowhere"):
            ssh.get("/nowhere", back)


def test_ssh_runs_commands_while_the_console_is_busy(reachable: Guest) -> None:
    with remote.connected(reachable) as ssh:
        busy = threading.Thread(
            target=lambda: reachable.run("until [ -f /tmp/go ]; do usleep 1000; done")
        )
        busy.start()
        assert ssh.run("cat /proc/sys/kernel/ostype").out == b"Linux\n"
        assert busy.is_alive()
        ssh.run("touch /tmp/go")
        busy.join(30)
        assert not busy.is_alive()


def test_ssh_survives_the_removal_of_all_pci_devices_and_the_iommu_driver(reachable: Guest) -> None:
    with remote.connected(reachable) as ssh:
        modules.load(reachable, "arm_smmu_v3")
        modules.load(reachable, "e1000e")
        for name in ("0000:00:01.0", "0000:00:00.0"):
            reachable.run(f"echo 1 > /sys/bus/pci/devices/{name}/remove")
        modules.unload(reachable, "arm_smmu_v3", force=True)
        assert ssh.run("ls /sys/bus/pci/devices").out == b""


def test_each_guest_has_its_own_keys(guest_factory: GuestFactory) -> None:
    one, other = guest_factory(WITH_SSH), guest_factory(WITH_SSH)
    with remote.connected(one) as first, remote.connected(other) as second:
        assert first.port != second.port
        assert first.host_key != second.host_key
        assert first.key.stat().st_mode & 0o077 == 0
        # Connect to the port of the second guest with the keys of the first.
        client = paramiko.SSHClient()
        key = paramiko.ECDSAKey.from_private_key_file(str(first.key))
        with pytest.raises(paramiko.SSHException, match="not found in known_hosts"):
            client.connect("127.0.0.1", second.port, "root", pkey=key)
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        with pytest.raises(paramiko.AuthenticationException):
            client.connect(
                "127.0.0.1",
                second.port,
                "root",
                pkey=key,
                allow_agent=False,
                look_for_keys=False,
            )
        client.close()


def test_ssh_port_listens_on_loopback_only(reachable: Guest) -> None:
    with remote.connected(reachable) as ssh:
        rules = reachable.hmp("info usernet")
        assert "127.0.0.1" in rules
        with socket.socket() as other, pytest.raises(OSError, match="refused"):
            other.connect(("127.0.0.2", ssh.port))


def test_guest_accepts_a_second_ssh_connection(reachable: Guest) -> None:
    with remote.connected(reachable):
        pass
    with remote.connected(reachable) as ssh:
        assert ssh.run("echo again").out == b"again\n"


def test_connected_rejects_a_machine_without_an_ssh_network(guest: Guest) -> None:
    with pytest.raises(UsageError, match="has no network device for SSH"), remote.connected(guest):
        pass
