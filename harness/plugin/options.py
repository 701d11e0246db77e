# SPDX-License-Identifier: GPL-2.0-only
"""The plugin's options and markers."""

import pytest

from harness.machine import topology
from harness.plugin import kernels

DEFAULT_MACHINE = "smmuv3"


def add(parser: pytest.Parser) -> None:
    """Adds the options. All have one prefix: they stand beside a project's own."""
    group = parser.getgroup("iommu-harness", "real kernels in QEMU")
    kernels.add_options(group)
    group.addoption(
        "--iommu-machine", action="append", default=[], metavar="NAME", help="repeatable"
    )
    group.addoption("--iommu-qemu", default=topology.QEMU, metavar="PATH", help="another QEMU")
    group.addoption(
        "--iommu-run-first",
        action="append",
        default=[],
        metavar="NAME",
        help="run this scenario first",
    )
    group.addoption(
        "--iommu-events", metavar="FILE", help="append a JSON line for each test that has ended"
    )
    group.addoption(
        "--iommu-plain-failures",
        action="store_true",
        help="neither decode unexpected splats nor try what another behaviour would come to",
    )
    group.addoption(
        "--iommu-keep-failed", action="store_true", help="keep the guests of failed tests for good"
    )


MARKERS = (
    "machines(*names): the machines that a test makes sense on; alone, those it runs on",
    "needs(*behaviours): without them a kernel cannot show what the test is about",
    "splats(*patterns): what the test makes the kernel report on purpose; each has to appear",
    "known_issue(*ids, sometimes=False): the bugs that the test runs into where they apply, and "
    "has to, unless it races something",
)


def machines(config: pytest.Config) -> list[str]:
    """The machines of the command line, or the default."""
    given: list[str] = config.getoption("--iommu-machine")
    return given or [DEFAULT_MACHINE]
