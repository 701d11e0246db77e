# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures for scenarios, and the audit that follows each scenario.

In the conftest.py of a directory of scenarios, import everything from this module::

    from harness.plugin.scenario_fixtures import *

A scenario runs on each ``--kernel`` and ``--machine`` that it applies to. If it passes, its guests
are audited (harness/iommu/audit.py): sysfs must be consistent, the IOMMU driver's module must be
pinned once for each device with a group, each group must have a default domain, no device may be
bound without translation, and neither the IOMMU drivers, the IOMMU core, VFIO nor iommufd may have
logged faults or errors, except those that the marker ``errors`` declares. If all of this holds, all
devices are removed, and it must then be possible to unload the IOMMU driver. The marker ``excused``
omits parts of the audit.
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

# Parts of the audit that a scenario can skip for a reason: @pytest.mark.excused(state="...").
_EXCUSES = {"everything", "state", "untranslated", "faults", "teardown"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "excused(state=, untranslated=, faults=, teardown=): parts of the audit that cannot pass"
        " after this scenario, each with the reason; everything= for a guest that has ended",
    )
    config.addinivalue_line(
        "markers", "errors(*patterns): error messages of drivers that the scenario provokes"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Run a scenario, and audit its guests if it passes. After a failure, the audit would only
    find consequences."""
    yield
    excuses = _excuses(item)
    errors = [each for marker in item.iter_markers("errors") for each in marker.args]
    for guest in plugin.guests_of(item):
        finding.require_none(_audit(guest, excuses, errors), "after the scenario")


def _excuses(item: pytest.Item) -> dict[str, str]:
    excuses: dict[str, str] = {}
    for marker in item.iter_markers("excused"):
        excuses |= marker.kwargs
    unknown = ", ".join(sorted(excuses.keys() - _EXCUSES))
    assert not unknown, f"unknown part of the audit: {unknown}"
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
    """A fresh guest in which the IOMMU driver and the drivers of its devices are loaded."""
    return guest_factory(machine, bound=True)


@pytest.fixture(autouse=True)
def _on_each_machine(machine: Machine) -> None:
    """Parametrize all scenarios by machine, including those that start their own guests."""


@pytest.fixture
def siblings(guest_factory: GuestFactory) -> Guest:
    """A guest with two bound NICs in one group, and with the VFIO modules loaded."""
    guest = guest_factory("+multifunction", *vfio.WARM_UP, bound=True)
    state = clients.bind_all(guest)
    assert len({state.devices[name].group for name in clients.nics(state)}) == 1
    return guest


@pytest.fixture
def early_acs(machine: Machine, shows: Shows) -> bool:
    """Whether ACS of a root port is enabled before groups exist. With ACPI it is on all kernels,
    because they parse the tables early enough (iort_init_platform_devices,
    acpi_viot_early_init)."""
    return machine.firmware == "acpi" or shows(ACS_BEFORE_GROUPS)


@pytest.fixture(autouse=True)
def _require_vfio_mode(request: pytest.FixtureRequest, kernel: Kernel) -> None:
    """Skip a scenario with a mode of VFIO users that the kernel's configuration does not
    support."""
    callspec = getattr(request.node, "callspec", None)
    for mode in callspec.params.values() if callspec else ():
        option = vfio.REQUIRED_OPTIONS.get(mode) if isinstance(mode, str) else None
        if option and not kernel.option(option):
            not_applicable(f"this kernel was built without CONFIG_{option}")
