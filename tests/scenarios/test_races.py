# SPDX-License-Identifier: GPL-2.0-only
"""Two things at once, on two processors: each has to come out as if one had come first.

Bounded, seeded and repeated; what is raced comes from different commits, named below. What
each can end in by the code of each kernel is in docs/what-races-end-in.md.
"""

import dataclasses
import random

import pytest

from harness.guest import devices, modules
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import audit, clients, finding
from harness.iommu.audit import survives
from harness.iommu.behaviour import CLIENTS_WAIT, DMA_OWNERSHIP
from harness.machine.topology import Machine
from harness.plugin.plugin import GuestFactory


@pytest.fixture
def pair(machine: Machine, guest_factory: GuestFactory) -> Guest:
    """A guest with two processors."""
    return guest_factory(dataclasses.replace(machine, name=f"{machine.name}-pair", cpus=2))


def both(guest: Guest, one: str, other: str) -> None:
    """Two commands at once, to the end of both."""
    survives(guest.step(f"{{ {one}; }} 2>/dev/null & {{ {other}; }} 2>/dev/null; wait"))


def assert_sound(guest: Guest) -> None:
    finding.none_of(audit.findings(guest.machine, guest.state()))


def assert_behind(state: State, names: list[str]) -> None:
    for name in names:
        finding.require(state.devices[name].group is not None, "translated", name, "no")


def nic_of(guest: Guest) -> str:
    return clients.pci(guest.state())[0]


@pytest.mark.needs(CLIENTS_WAIT)
@pytest.mark.known_issue(
    "client-binds-while-iommu-probes", "client-probes-before-registration-does", sometimes=True
)
@pytest.mark.parametrize("client", ["e1000e", "iommu_client"])
@pytest.mark.parametrize("seed", range(3))
def test_client_racing_registration_ends_up_translated(pair: Guest, client: str, seed: int) -> None:
    """b46064a18810, 95deee37a123: iommu_device_register against a driver's dma_configure.
    The client ends up behind its IOMMU, whoever was first."""
    driver = pair.machine.iommu.driver
    if client == "iommu_client" and not pair.machine.overlays:
        client = "e1000e async_probe"
    rng = random.Random(seed)
    waits = [rng.randrange(0, 30000) for _ in range(2)]
    both(
        pair,
        f"usleep {waits[0]}; modprobe {driver}",
        f"usleep {waits[1]}; modprobe {client}",
    )
    names = [
        name
        for name in clients.behind(pair.state())
        if (":" in name) == client.startswith("e1000e")
    ]
    state = devices.wait_for(pair, "clients to be bound", clients.are_bound(names))
    assert_behind(state, names)
    assert_sound(pair)


@pytest.mark.machines("smmuv3")
@pytest.mark.needs(CLIENTS_WAIT)
def test_async_client_probes_all_get_groups(pair: Guest) -> None:
    """async_probe: two clients configure their DMA at once."""
    modules.load(pair, "arm_smmu_v3")
    for _ in range(5):
        assert pair.run("modprobe iommu_client async_probe").number == 0
        names = clients.platform(pair.state())
        state = devices.wait_for(pair, "clients to be bound", clients.are_bound(names))
        assert_behind(state, names)
        assert_sound(pair)
        modules.unload(pair, "iommu_client")


@pytest.mark.parametrize("seed", range(3))
def test_device_removal_races_with_unbind(pair: Guest, seed: int) -> None:
    """device_del against unbind_store: one waits for the other's device lock."""
    clients.bound(pair)
    rng = random.Random(seed)
    nic = nic_of(pair)
    for _ in range(4):
        both(
            pair,
            f"usleep {rng.randrange(3000)}; echo {nic} > /sys/bus/pci/drivers/e1000e/unbind",
            f"usleep {rng.randrange(3000)}; echo 1 > /sys/bus/pci/devices/{nic}/remove",
        )
        assert nic not in pair.state().devices
        assert_sound(pair)
        assert devices.rescan(pair).after.devices[nic].driver == "e1000e"


@pytest.mark.known_issue(
    "device-outlives-driver",
    "unloaded-operations-stay",
    "unloaded-virtio-operations-stay",
    "fwspec-outlives-virtio-operations",
    "iommu-goes-while-it-is-looked-up",
    sometimes=True,
)
@pytest.mark.parametrize("seed", range(3))
def test_rescan_races_with_unload(pair: Guest, seed: int) -> None:
    """rescan against rmmod: the driver is refused, or the device finds none.

    On the way the module is live, going (try_module_get fails), off the list of IOMMUs, and
    freed. Before 6.12 a device that comes by in the middle keeps a fwspec, which 5.10 does not
    clear behind a virtio-iommu; before 6.12, too, the bus keeps operations that are freed."""
    clients.bound(pair)
    nic, driver = nic_of(pair), pair.machine.iommu.driver
    rng = random.Random(seed)
    clients.remove_all(pair)
    for _ in range(3):
        both(
            pair,
            f"usleep {rng.randrange(4000)}; rmmod {driver}",
            f"usleep {rng.randrange(4000)}; echo 1 > /sys/bus/pci/rescan",
        )
        state = pair.state()
        assert nic in state.devices
        loaded = state.refcount(driver) is not None
        assert loaded or not state.groups
        assert_sound(pair)
        modules.load(pair, driver)
        for name in (nic, devices.HOST_BRIDGE):
            if name in pair.state().devices:
                # One that oopses dies with pci_rescan_remove_lock, for which the next one waits.
                survives(devices.remove(pair, name))
        count = pair.state().refcount(driver)
        finding.require(count == 0, "refcount", driver, count)


@pytest.mark.parametrize("seed", range(2))
def test_removals_race_with_rescans(pair: Guest, seed: int) -> None:
    clients.bound(pair)
    nic = nic_of(pair)
    rng = random.Random(seed)
    remove = f"echo 1 > /sys/bus/pci/devices/{nic}/remove"
    rescan = "echo 1 > /sys/bus/pci/rescan"
    loop = "for n in 1 2 3 4 5; do usleep {}; {}; {}; done"
    both(
        pair,
        loop.format(rng.randrange(2000), remove, rescan),
        loop.format(rng.randrange(2000), rescan, remove),
    )
    assert_sound(pair)
    assert devices.rescan(pair).after.devices[nic].driver == "e1000e"
    assert_sound(pair)


@pytest.mark.needs(DMA_OWNERSHIP)
def test_bind_and_claim_race_has_one_winner(pair: Guest) -> None:
    """A driver binds while a user claims: owner_cnt is looked at under the group's mutex.
    The driver waits for less where it has come late, and for more where it was first, which
    closes in on the moment when either can be."""
    clients.bound(pair)
    nic = nic_of(pair)
    devices.unbind(pair, nic)
    claiming = f"modprobe dma_owner device={nic}"
    began = pair.clock()
    modules.load(pair, "dma_owner", device=nic)
    wait = int((pair.clock() - began) * 1e6)
    modules.unload(pair, "dma_owner")
    for _ in range(16):
        both(pair, f"usleep {wait}; echo {nic} > /sys/bus/pci/drivers/e1000e/bind", claiming)
        state = pair.state()
        bound, claimed = bool(state.devices[nic].driver), "dma_owner" in state.modules
        assert bound != claimed, f"bound: {bound}, claimed: {claimed}"
        if claimed:
            modules.unload(pair, "dma_owner")
            wait //= 2
        else:
            devices.unbind(pair, nic)
            wait += wait // 2 + 1
