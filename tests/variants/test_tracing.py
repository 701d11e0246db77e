# SPDX-License-Identifier: GPL-2.0-only
"""Trace events and failing allocations."""

import pytest

from harness.errors import GuestError, UsageError
from harness.guest import failnth, modules, tracing
from harness.guest.guest import Guest

# The trace event of try_module_get in __iommu_probe_device. The count includes the module's own
# reference.
PIN = "arm_smmu_v3 call_site=__iommu_probe_device "


def test_trace_events_show_what_pins_a_module(guest: Guest) -> None:
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


def test_tracing_rejects_an_unknown_trace_event(guest: Guest) -> None:
    refused = pytest.raises(UsageError, match="unknown trace event 'iommu:nope'")
    with refused, tracing.tracing(guest, "iommu:nope"):
        pass


def test_fail_each_includes_failures_that_are_not_logged(guest: Guest) -> None:
    """Some allocations of a module load are __GFP_NOWARN, and their failures are not logged. A loop
    that relies on the log would end long before the last allocation."""
    silent = number = 0
    for failure in failnth.fail_each(guest, "sh", "exec modprobe iommu_client"):
        logged = any("forcing a failure" in entry.text for entry in guest.new_kmsg())
        silent += not logged
        number = failure.number
        guest.run("rmmod iommu_client")
    assert "iommu_client" in guest.state().modules
    assert silent > 0
    assert number > 50


def test_exclude_spares_allocations_below_a_function(guest: Guest) -> None:
    counts = []
    for spared in ("", "load_module", "nope"):
        load = ("sh", "exec modprobe iommu_client")
        failing = failnth.fail_each(guest, *load, exclude=spared)
        counts.append(sum(1 for _ in failing if guest.run("rmmod iommu_client").out == ""))
        guest.run("rmmod iommu_client")
    # An unknown function spares none. The counts differ slightly because of caches.
    assert min(counts[0], counts[2]) > counts[1] > 5, counts


def test_fail_all_returns_the_same_failures_as_fail_each(guest: Guest) -> None:
    write = ("write", "/sys/bus/platform/drivers_autoprobe", "0")
    assert failnth.fail_all(guest, *write) == list(failnth.fail_each(guest, *write)) != []


def test_fail_each_rejects_a_command_that_fails_without_a_failed_allocation(guest: Guest) -> None:
    with pytest.raises(
        GuestError, match="sh false exited with status 1, although no allocation failed"
    ):
        list(failnth.fail_each(guest, "sh", "false"))
