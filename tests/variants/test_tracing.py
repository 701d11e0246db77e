# SPDX-License-Identifier: GPL-2.0-only
"""Trace events and allocations that fail."""

import pytest

from harness.errors import GuestError, UsageError
from harness.guest import failnth, modules, tracing
from harness.guest.guest import Guest

# What __iommu_probe_device's try_module_get looks like; a module's own reference is 1.
PIN = "arm_smmu_v3 call_site=__iommu_probe_device "


def test_trace_events_name_what_pins_a_module(guest: Guest) -> None:
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


def test_unknown_trace_event_is_a_usage_error(guest: Guest) -> None:
    refused = pytest.raises(UsageError, match="unknown trace event 'iommu:nope'")
    with refused, tracing.tracing(guest, "iommu:nope"):
        pass


def test_failures_without_a_printed_trace_are_counted(guest: Guest) -> None:
    """Of a module's load some allocations are __GFP_NOWARN: the log has no word of them,
    and a loop that trusts it ends long before the last."""
    silent = number = 0
    for failure in failnth.fail_each(guest, "sh", "exec modprobe iommu_client"):
        logged = any("forcing a failure" in entry.text for entry in guest.new_kmsg())
        silent += not logged
        number = failure.number
        guest.run("rmmod iommu_client")
    assert "iommu_client" in guest.state().modules
    assert silent > 0
    assert number > 50


def test_allocations_below_an_excluded_function_do_not_fail(guest: Guest) -> None:
    counts = []
    for spared in ("", "load_module", "nope"):
        load = ("sh", "exec modprobe iommu_client")
        failing = failnth.fail_each(guest, *load, exclude=spared)
        counts.append(sum(1 for _ in failing if guest.run("rmmod iommu_client").out == ""))
        guest.run("rmmod iommu_client")
    # One that the kernel has not spares none; caches make the counts differ a little.
    assert min(counts[0], counts[2]) > counts[1] > 5, counts


def test_all_failures_equal_those_one_by_one(guest: Guest) -> None:
    write = ("write", "/sys/bus/platform/drivers_autoprobe", "0")
    assert failnth.fail_all(guest, *write) == list(failnth.fail_each(guest, *write)) != []


def test_command_that_fails_anyway_is_an_error(guest: Guest) -> None:
    with pytest.raises(
        GuestError, match="sh false exited with status 1, although no allocation failed"
    ):
        list(failnth.fail_each(guest, "sh", "false"))
