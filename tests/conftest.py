# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures for tests on real kernels and guests."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from harness.guest.guest import Guest
from harness.iommu import machines
from harness.kernel.spec import KernelSpec
from harness.plugin.plugin import GuestFactory

REPORTS = Path(__file__).parent / "reports"
PATCHES = Path(__file__).parent / "patches"


def pytest_configure() -> None:
    """Handle SIGINT and SIGHUP. A shell starts background jobs with SIGINT ignored, and nohup
    ignores SIGHUP. Child processes inherit an ignored signal, but not a handler."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


@pytest.fixture
def kernel_name(kernel_spec: KernelSpec) -> str:
    """The kernel, in the form of an argument of ``--kernel``."""
    return f"{kernel_spec.kind}:{kernel_spec.where}"


MACHINES = {
    "smmuv3": machines.named("smmuv3"),
    "virtio-iommu": machines.named("virtio-iommu"),
    "smmuv3-single-console": replace(machines.named("smmuv3"), single_console=True),
}


@pytest.fixture(params=MACHINES)
def any_guest(request: pytest.FixtureRequest, guest_factory: GuestFactory) -> Guest:
    """A guest on each machine, and a guest with all channels on a single console."""
    return guest_factory(MACHINES[request.param])


@pytest.fixture
def smmuv3(guest_factory: GuestFactory) -> Guest:
    """A guest behind an SMMUv3, with two platform clients and an e1000e."""
    return guest_factory("smmuv3")
