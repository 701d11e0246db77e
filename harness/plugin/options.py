# SPDX-License-Identifier: GPL-2.0-only
"""The plugin's options and markers."""

import pytest

from harness.machine import topology
from harness.plugin import kernels

DEFAULT_MACHINE = "smmuv3"


def add(parser: pytest.Parser) -> None:
    """Add the options. All have the prefix ``--iommu-``, apart from the options of a project."""
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
        help="run this scenario before the others; repeatable",
    )
    group.addoption(
        "--iommu-events", metavar="FILE", help="append a JSON line for each test that ends"
    )
    group.addoption(
        "--iommu-plain-failures",
        action="store_true",
        help="neither decode splats nor rerun a failed test with the opposite behaviours",
    )
    group.addoption(
        "--iommu-keep-failed", action="store_true", help="keep the guests of failed tests"
    )


MARKERS = (
    "machines(*names): the machines that a test applies to, and runs on by default",
    "needs(*behaviours): behaviours without which a kernel cannot show what the test is about",
    "splats(*patterns): splats that the test provokes; each must appear",
    "known_issue(*ids, sometimes=False): the bugs that the test runs into on kernels that have "
    "them; each must appear, unless sometimes is true, as for a race",
)


def machines(config: pytest.Config) -> list[str]:
    """The machines of the command line, or the default."""
    names: list[str] = config.getoption("--iommu-machine")
    return names or [DEFAULT_MACHINE]
