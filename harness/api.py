# SPDX-License-Identifier: GPL-2.0-only
"""The API for tests: guests, and functions that drive and inspect them.

The version of the package covers these names, the plugin's fixtures and markers, the command line
and its JSON output. All other modules may change at any time.
"""

from harness.errors import (
    CommandFailed,
    GuestError,
    GuestHang,
    GuestLost,
    GuestPanic,
    HarnessError,
    HostError,
    UsageError,
)
from harness.guest import devices, failnth, modules, remote, snapshot, tracing
from harness.guest.guest import Guest, Result, Step
from harness.guest.state import Device, Group, Module, State
from harness.iommu import audit, behaviour, clients, finding, groups, traffic, vfio
from harness.plugin.applicable import not_applicable
from harness.plugin.plugin import ExpectSplat, GuestFactory, Shows

__all__ = [
    "CommandFailed",
    "Device",
    "ExpectSplat",
    "Group",
    "Guest",
    "GuestError",
    "GuestFactory",
    "GuestHang",
    "GuestLost",
    "GuestPanic",
    "HarnessError",
    "HostError",
    "Module",
    "Result",
    "Shows",
    "State",
    "Step",
    "UsageError",
    "audit",
    "behaviour",
    "clients",
    "devices",
    "failnth",
    "finding",
    "groups",
    "modules",
    "not_applicable",
    "remote",
    "snapshot",
    "tracing",
    "traffic",
    "vfio",
]
