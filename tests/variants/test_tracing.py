# SPDX-License-Identifier: GPL-2.0-only
"""Trace events and allocations that fail, on a kernel that has both."""

import pytest

from harness.errors import UsageError
from harness.guest import modules, tracing
from harness.guest.guest import Guest


def test_events_tell_who_takes_the_module(guest: Guest) -> None:
    modules.load(guest, "arm_smmu_v3")
    with tracing.tracing(guest, "module:module_get", "iommu:add_device_to_group") as trace:
        modules.load(guest, "iommu_client")
        events = trace.read()
        pins = [each for each in events if each.text.startswith("arm_smmu_v3 ")]
        added = [each for each in events if each.name == "add_device_to_group"]
        assert trace.read() == []
    assert len(added) == 2
    assert len(pins) == 2
    assert all("call_site=iommu_init_device" in each.text for each in pins)
    modules.unload(guest, "iommu_client")


def test_an_event_that_does_not_exist(guest: Guest) -> None:
    refused = pytest.raises(UsageError, match="no trace event 'iommu:nope'")
    with refused, tracing.tracing(guest, "iommu:nope"):
        pass


def test_each_allocation_of_a_load_can_fail(guest: Guest) -> None:
    """fail-nth until it passes: every failure is told, and what passes at last is whole."""
    failures = 0
    for number in range(1, 2000):
        step, injected = tracing.fail_nth(guest, number, "modprobe iommu_client")
        if not injected:
            break
        failures += step.status != 0
        modules.unload(guest, "iommu_client")
    assert step.status == 0
    assert failures > 10
    assert "iommu_client" in step.after.modules
