# SPDX-License-Identifier: GPL-2.0-only
"""Concurrent operations on two CPUs: the result must be as if one had run after the other.

The races are bounded, seeded and repeated. The docstrings name the commits that they come from.
docs/what-races-end-in.md lists the possible results of each race, by the code of each kernel.
"""

import dataclasses
import random

import pytest

from harness.guest import devices, modules
from harness.guest.guest import Guest
from harness.guest.state import State
from harness.iommu import audit, clients, finding
from harness.iommu.audit import require_survival
from harness.iommu.behaviour import DMA_OWNERSHIP, PROBE_DEFERRAL
from harness.machine.topology import Machine
from harness.plugin.plugin import GuestFactory


def with_cpus(machine: Machine, cpus: int) -> Machine:
    return dataclasses.replace(machine, name=f"{machine.name}-{cpus}-cpus", cpus=cpus)


@pytest.fixture
def smp_guest(machine: Machine, guest_factory: GuestFactory) -> Guest:
    """A guest with two CPUs."""
    return guest_factory(with_cpus(machine, 2))


@pytest.fixture(params=range(3))
def rng(request: pytest.FixtureRequest) -> random.Random:
    """What the delays of a race are drawn from."""
    return random.Random(request.param)


def run_concurrently(guest: Guest, one: str, other: str) -> None:
    """Run two commands concurrently, and wait for both."""
    require_survival(guest.step(f"{{ {one}; }} 2>/dev/null & {{ {other}; }} 2>/dev/null; wait"))


def assert_consistent(guest: Guest) -> None:
    finding.require_none(audit.findings(guest.machine, guest.state()))


def assert_translated(state: State, names: list[str]) -> None:
    for name in names:
        finding.require(state.devices[name].group is not None, "translated", name, "no")


def nic_of(guest: Guest) -> str:
    return clients.pci(guest.state())[0]


@pytest.mark.needs(PROBE_DEFERRAL)
@pytest.mark.known_issue(
    "client-binds-while-iommu-probes", "client-probes-during-registration", sometimes=True
)
@pytest.mark.parametrize("client", ["e1000e", "iommu_client"])
def test_client_racing_registration_ends_up_translated(
    smp_guest: Guest, client: str, rng: random.Random
) -> None:
    """A client that probes while its IOMMU registers ends up translated, in either order.

    b46064a18810, 95deee37a123: iommu_device_register races with a driver's dma_configure."""
    driver = smp_guest.machine.iommu.driver
    if client == "iommu_client" and not smp_guest.machine.overlays:
        client = "e1000e async_probe"
    waits = [rng.randrange(0, 30000) for _ in range(2)]
    run_concurrently(
        smp_guest,
        f"usleep {waits[0]}; modprobe {driver}",
        f"usleep {waits[1]}; modprobe {client}",
    )
    names = [
        name
        for name in clients.behind(smp_guest.state())
        if (":" in name) == client.startswith("e1000e")
    ]
    state = devices.wait_for(smp_guest, "clients to be bound", clients.are_bound(names))
    assert_translated(state, names)
    assert_consistent(smp_guest)


@pytest.mark.machines("smmuv3")
@pytest.mark.needs(PROBE_DEFERRAL)
def test_async_client_probes_all_get_groups(smp_guest: Guest) -> None:
    """Clients that probe asynchronously at the same time all get their groups.

    async_probe: two clients configure their DMA concurrently."""
    modules.load(smp_guest, "arm_smmu_v3")
    for _ in range(5):
        assert smp_guest.run("modprobe iommu_client async_probe").status == 0
        names = clients.platform(smp_guest.state())
        state = devices.wait_for(smp_guest, "clients to be bound", clients.are_bound(names))
        assert_translated(state, names)
        assert_consistent(smp_guest)
        modules.unload(smp_guest, "iommu_client")


def test_device_removal_races_with_unbind(smp_guest: Guest, rng: random.Random) -> None:
    """A device that is removed while it is being unbound leaves its group once, in either order.

    device_del races with unbind_store; one waits until the other releases the device lock."""
    clients.bind_all(smp_guest)
    nic = nic_of(smp_guest)
    for _ in range(4):
        run_concurrently(
            smp_guest,
            f"usleep {rng.randrange(3000)}; echo {nic} > /sys/bus/pci/drivers/e1000e/unbind",
            f"usleep {rng.randrange(3000)}; echo 1 > /sys/bus/pci/devices/{nic}/remove",
        )
        assert nic not in smp_guest.state().devices
        assert_consistent(smp_guest)
        assert devices.rescan(smp_guest).after.devices[nic].driver == "e1000e"


@pytest.mark.known_issue(
    "device-outlives-driver",
    "unloaded-operations-stay",
    "unloaded-virtio-operations-stay",
    "fwspec-outlives-virtio-operations",
    "iommu-unregisters-during-lookup",
    sometimes=True,
)
def test_rescan_races_with_unload(smp_guest: Guest, rng: random.Random) -> None:
    """A rescan during rmmod either pins the module or finds no IOMMU.

    The module is live, then going (try_module_get fails), then removed from the list of IOMMUs,
    then freed. Before 6.12, a device that is added in between keeps a fwspec (which 5.10 does not
    clear behind a virtio-iommu), and the bus keeps operations that have been freed."""
    clients.bind_all(smp_guest)
    nic, driver = nic_of(smp_guest), smp_guest.machine.iommu.driver
    clients.remove_all(smp_guest)
    for _ in range(3):
        run_concurrently(
            smp_guest,
            f"usleep {rng.randrange(4000)}; rmmod {driver}",
            f"usleep {rng.randrange(4000)}; echo 1 > /sys/bus/pci/rescan",
        )
        state = smp_guest.state()
        assert nic in state.devices
        loaded = state.is_loaded(driver)
        assert loaded or not state.groups
        assert_consistent(smp_guest)
        modules.load(smp_guest, driver)
        for name in (nic, devices.HOST_BRIDGE):
            if name in smp_guest.state().devices:
                # An oops leaves pci_rescan_remove_lock held, and the next removal blocks on it.
                require_survival(devices.remove(smp_guest, name, check=False))
        count = smp_guest.state().refcount_if_loaded(driver)
        finding.require(count == 0, "refcount", driver, count)


def test_removals_race_with_rescans(smp_guest: Guest, rng: random.Random) -> None:
    """Concurrent removals and rescans of a device leave it usable and the refcounts balanced."""
    clients.bind_all(smp_guest)
    nic = nic_of(smp_guest)
    remove = f"echo 1 > /sys/bus/pci/devices/{nic}/remove"
    rescan = "echo 1 > /sys/bus/pci/rescan"
    loop = "for n in 1 2 3 4 5; do usleep {}; {}; {}; done"
    run_concurrently(
        smp_guest,
        loop.format(rng.randrange(2000), remove, rescan),
        loop.format(rng.randrange(2000), rescan, remove),
    )
    assert_consistent(smp_guest)
    assert devices.rescan(smp_guest).after.devices[nic].driver == "e1000e"
    assert_consistent(smp_guest)


@pytest.mark.needs(DMA_OWNERSHIP)
def test_bind_and_claim_race_has_one_winner(smp_guest: Guest) -> None:
    """When a driver binds while a user claims the group, exactly one of them succeeds.

    owner_cnt is checked under the group's mutex. The delay of the driver is shortened if the
    claim was first, and lengthened if the driver was first. It converges on the moment when
    either can win."""
    clients.bind_all(smp_guest)
    nic = nic_of(smp_guest)
    devices.unbind(smp_guest, nic)
    claiming = f"modprobe dma_owner device={nic}"
    started = smp_guest.clock()
    modules.load(smp_guest, "dma_owner", device=nic)
    wait = int((smp_guest.clock() - started) * 1e6)
    modules.unload(smp_guest, "dma_owner")
    for _ in range(16):
        run_concurrently(
            smp_guest, f"usleep {wait}; echo {nic} > /sys/bus/pci/drivers/e1000e/bind", claiming
        )
        state = smp_guest.state()
        bound, claimed = bool(state.devices[nic].driver), "dma_owner" in state.modules
        assert bound != claimed, f"bound: {bound}, claimed: {claimed}"
        if claimed:
            modules.unload(smp_guest, "dma_owner")
            wait //= 2
        else:
            devices.unbind(smp_guest, nic)
            wait += wait // 2 + 1
