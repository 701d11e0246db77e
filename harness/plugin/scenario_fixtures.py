# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of scenarios, and the audit that follows each.

Import all of it in the conftest.py of a directory of scenarios::

    from harness.plugin.scenario_fixtures import *

A scenario runs on every ``--kernel`` and ``--machine`` that it applies to. The guest is then
audited (harness/iommu/audit.py): sysfs is consistent, the IOMMU driver's module is pinned
once for each device with a group, no device is bound untranslated, the IOMMU has blocked no
DMA, and its driver has logged no error. Finally all devices are removed, and the IOMMU's
driver must unload.
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
from harness.plugin.applicable import not_applicable
from harness.plugin.plugin import GuestFactory, Shows

__all__ = [
    "_on_each_machine",
    "_require_vfio_mode",
    "bound_guest",
    "early_acs",
    "pytest_configure",
    "pytest_runtest_call",
    "siblings",
]

# Parts of the audit that a scenario can skip, each with a reason:
# @pytest.mark.excused(state="...").
_EXCUSES = {"everything", "state", "untranslated", "faults", "teardown"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "excused(state=, untranslated=, faults=, teardown=): parts of the audit that cannot pass"
        " after this scenario, each with the reason; everything= for a guest that has ended",
    )
    config.addinivalue_line(
        "markers", "errors(*patterns): error messages that the scenario provokes in drivers"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Audit the guests of a scenario that passes. What a failed one leaves is a consequence."""
    yield
    excuses = _excuses(item)
    errors = [each for marker in item.iter_markers("errors") for each in marker.args]
    for guest in plugin.guests_of(item):
        finding.require_none(_audit(guest, excuses, errors), "after the scenario")


def _excuses(item: pytest.Item) -> dict[str, str]:
    excuses: dict[str, str] = {}
    for marker in item.iter_markers("excused"):
        excuses |= marker.kwargs
    assert excuses.keys() <= _EXCUSES, f"unknown part of the audit {excuses.keys() - _EXCUSES}"
    return excuses


def _audit(guest: Guest, excuses: dict[str, str], errors: list[str]) -> list[Finding]:
    if "everything" in excuses:
        return []
    state = guest.state()
    wrong = [] if "state" in excuses else audit.findings(guest.machine, state)
    if "untranslated" not in excuses:
        wrong += audit.untranslated(state)
    if "faults" not in excuses:
        wrong += audit.faults(guest.kmsg())
    wrong += audit.errors(guest.kmsg(), errors)
    return wrong or ([] if "teardown" in excuses else audit.teardown(guest, state))


@pytest.fixture
def bound_guest(machine: Machine, guest_factory: GuestFactory) -> Guest:
    """A fresh guest with the IOMMU's driver loaded, and then the drivers of its devices."""
    return guest_factory(machine, bound=True)


@pytest.fixture(autouse=True)
def _on_each_machine(machine: Machine) -> None:
    """Parametrise scenarios that start their own guests by machine too."""


@pytest.fixture
def siblings(guest_factory: GuestFactory) -> Guest:
    """A guest with two bound NICs in one group, and VFIO's modules loaded."""
    guest = guest_factory("+multifunction", *vfio.WARM_UP, bound=True)
    state = clients.bind_all(guest)
    assert len({state.devices[name].group for name in clients.nics(state)}) == 1
    return guest


@pytest.fixture
def early_acs(machine: Machine, shows: Shows) -> bool:
    """Whether ACS of a root port is enabled before groups exist. ACPI's tables are parsed
    early enough on all kernels (iort_init_platform_devices, acpi_viot_early_init)."""
    return machine.firmware == "acpi" or shows(ACS_BEFORE_GROUPS)


@pytest.fixture(autouse=True)
def _require_vfio_mode(request: pytest.FixtureRequest, kernel: Kernel) -> None:
    """Skip a mode of VFIO users that the kernel's configuration does not support."""
    callspec = getattr(request.node, "callspec", None)
    for mode in callspec.params.values() if callspec else ():
        option = vfio.REQUIRED_OPTIONS.get(mode) if isinstance(mode, str) else None
        if option and not kernel.option(option):
            not_applicable(f"this kernel has no {option}")
