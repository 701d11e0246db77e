# SPDX-License-Identifier: GPL-2.0-only
"""Machines with firmware that describes the IOMMU in ACPI tables (IORT and VIOT)."""

import pytest

from harness.guest import modules
from harness.guest.guest import Guest
from harness.iommu import traffic

pytestmark = pytest.mark.machines("smmuv3-acpi", "virtio-iommu-acpi")


def test_iommu_translates_the_dma_of_a_nic_in_a_group(guest: Guest) -> None:
    assert guest.run("test -d /sys/firmware/acpi/tables").status == 0
    modules.load(guest, guest.machine.iommu.driver)
    state = modules.load(guest, "e1000e").after
    (nic,) = (name for name, each in state.devices.items() if each.driver == "e1000e")
    assert state.devices[nic].group is not None
    ping = traffic.ping(guest, nic)
    assert ping.answered
    assert ping.translated > 0


def test_firmware_provides_the_acpi_table_of_the_iommu(guest: Guest) -> None:
    table = {"arm_smmu_v3": "IORT", "virtio_iommu": "VIOT"}[guest.machine.iommu.driver]
    assert guest.run(f"test -f /sys/firmware/acpi/tables/{table}").status == 0


def test_iommu_driver_can_be_unloaded_after_its_clients_are_removed(guest: Guest) -> None:
    driver = guest.machine.iommu.driver
    modules.load(guest, driver)
    pinned = modules.load(guest, "e1000e")
    assert modules.unload(guest, driver, check=False).status != 0
    for group in pinned.after.groups.values():
        for name in group.devices:
            guest.run(f"echo 1 > /sys/bus/pci/devices/{name}/remove")
    assert guest.state().refcount(driver) == 0
    modules.unload(guest, driver)
