# SPDX-License-Identifier: GPL-2.0-only
"""What all scenarios share: the audit after each.

A scenario runs on every ``--kernel`` and ``--machine`` where it makes sense. After it the
guest is audited (harness/iommu/audit.py): sysfs agrees with itself, a module is pinned
once for each device with a group, no device is bound past its IOMMU, no DMA was stopped
by it, and its driver logged no error; then all devices are taken away, and the IOMMU's driver
has to unload.
"""

from collections.abc import Generator

import pytest

from harness.guest.guest import Guest
from harness.iommu import audit, clients, finding, vfio
from harness.iommu.behaviour import ACS_BEFORE_GROUPS
from harness.iommu.finding import Finding
from harness.kernel.artifact import Kernel
from harness.machine.topology import Machine
from harness.plugin import plugin
from harness.plugin.plugin import GuestFactory, Shows, not_applicable

# What a scenario can be excused from, each with a reason: @pytest.mark.excused(state="...").
_EXCUSES = {"state", "untranslated", "faults", "teardown"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "excused(state=, untranslated=, faults=, teardown=): parts of the audit that cannot hold"
        " after this scenario, each with the reason",
    )
    config.addinivalue_line(
        "markers", "errors(*patterns): what the scenario makes drivers log as an error"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A scenario that fails is not audited: what it left is a consequence."""
    yield
    excuses = _excuses(item)
    errors = [each for marker in item.iter_markers("errors") for each in marker.args]
    for guest in plugin.guests_of(item):
        finding.none_of(_audit(guest, excuses, errors), "after the scenario")


def _excuses(item: pytest.Item) -> dict[str, str]:
    excuses: dict[str, str] = {}
    for marker in item.iter_markers("excused"):
        excuses |= marker.kwargs
    assert excuses.keys() <= _EXCUSES, f"no such part of the audit: {excuses.keys() - _EXCUSES}"
    return excuses


def _audit(guest: Guest, excuses: dict[str, str], errors: list[str]) -> list[Finding]:
    if "state" in excuses:
        return []
    state = guest.state()
    wrong = audit.findings(guest.machine, state)
    if "untranslated" not in excuses:
        wrong += audit.untranslated(state)
    if "faults" not in excuses:
        wrong += audit.faults(guest.kmsg())
    wrong += audit.errors(guest.kmsg(), errors)
    return wrong or ([] if "teardown" in excuses else audit.teardown(guest, state))


@pytest.fixture
def bound_guest(machine: Machine, guest_factory: GuestFactory) -> Guest:
    """A fresh guest in which the IOMMU's driver was loaded, and then those of its devices."""
    return guest_factory(machine, bound=True)


@pytest.fixture(autouse=True)
def _on_each_machine(machine: Machine) -> None:
    """A scenario that starts its guests itself is about the machine under test too."""


@pytest.fixture
def siblings(guest_factory: GuestFactory) -> Guest:
    """A guest with two NICs in one group, bound, and the modules of VFIO."""
    guest = guest_factory("+multifunction", *vfio.WARM_UP, bound=True)
    state = clients.bound(guest)
    assert len({state.devices[name].group for name in clients.nics(state)}) == 1
    return guest


@pytest.fixture
def acs_in_time(machine: Machine, shows: Shows) -> bool:
    """Whether a root port has its ACS on before there are groups. ACPI's tables are looked at
    early enough on all kernels (iort_init_platform_devices, acpi_viot_early_init)."""
    return machine.firmware == "acpi" or shows(ACS_BEFORE_GROUPS)


@pytest.fixture(autouse=True)
def _each_way_that_the_kernel_has(request: pytest.FixtureRequest, kernel: Kernel) -> None:
    callspec = getattr(request.node, "callspec", None)
    for way in callspec.params.values() if callspec else ():
        option = vfio.NEEDS.get(way) if isinstance(way, str) else None
        if option and not kernel.option(option):
            not_applicable(f"this kernel has no {option}")
