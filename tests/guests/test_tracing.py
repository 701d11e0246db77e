# SPDX-License-Identifier: GPL-2.0-only
"""Trace events and allocations that fail, on a kernel that has both."""

import pytest

from harness.errors import UsageError
from harness.guest import devices, modules, tracing
from harness.guest.guest import Guest

# What __iommu_probe_device's try_module_get looks like; a module's own reference is 1.
PIN = "arm_smmu_v3 call_site=__iommu_probe_device "


def test_events_tell_who_takes_the_module(guest: Guest) -> None:
    modules.load(guest, "arm_smmu_v3")
    with tracing.tracing(guest, "module:module_get", "iommu:add_device_to_group") as trace:
        modules.load(guest, "iommu_client")
        events = trace.read()
        pins = [each for each in events if each.text.startswith(PIN)]
        added = [each for each in events if each.name == "add_device_to_group"]
        assert trace.read() == []
    assert len(added) == 2
    assert [each.text.removeprefix(PIN) for each in pins] == ["refcnt=2", "refcnt=3"]
    modules.unload(guest, "iommu_client")


def test_an_event_that_does_not_exist(guest: Guest) -> None:
    refused = pytest.raises(UsageError, match="no trace event 'iommu:nope'")
    with refused, tracing.tracing(guest, "iommu:nope"):
        pass


def test_failures_that_nobody_prints_are_counted_too(guest: Guest) -> None:
    """Of a module's load some allocations are __GFP_NOWARN: the log has no word of them,
    and a loop that trusts it ends long before the last."""
    silent, injected, number = 0, True, 0
    while injected:
        number += 1
        step, injected = tracing.fail_nth(guest, number, "exec modprobe iommu_client")
        told = any("forcing a failure" in entry.text for entry in step.kmsg)
        silent += injected and not told
        if "iommu_client" in step.after.modules:
            modules.unload(guest, "iommu_client")
    assert step.status == 0
    assert silent > 0
    assert number > 50


def test_each_allocation_of_a_bind_can_fail(guest: Guest) -> None:
    """fail-nth until it passes: each failure leaves the device unbound, and the SMMU
    pinned by nothing that has no group."""
    client = "b000000.client0"
    modules.load(guest, "arm_smmu_v3")
    guest.run("echo 0 > /sys/bus/platform/drivers_autoprobe")
    modules.load(guest, "iommu_client")
    bind = f"echo {client} > /sys/bus/platform/drivers/iommu_client/bind"
    failures = 0
    for number in range(1, 1000):
        step, injected = tracing.fail_nth(guest, number, bind)
        if step.status == 0:
            devices.unbind(guest, client)
        if not injected:
            break
        failures += step.status != 0
        assert step.after.refcount("arm_smmu_v3") == len(step.after.groups)
    assert step.status == 0
    assert failures > 5
    assert number > 20, "a bind makes more allocations than that"
    assert step.after.devices[client].driver == "iommu_client"
