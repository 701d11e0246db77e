# SPDX-License-Identifier: GPL-2.0-only
"""The plugin's options and markers."""

import pytest

from harness.iommu import machines
from harness.machine import topology

# Options that may be repeated: the name, what it takes, and the help.
_REPEATABLE = (
    ("--iommu-kernel", "SPEC", "run on this kernel"),
    ("--iommu-variant", "NAME", "build the kernels as this variant"),
    ("--iommu-patch", "FILE", "apply this patch to the kernels"),
    ("--iommu-fragment", "FILE", "merge this fragment into the kernels' configuration"),
    (
        "--iommu-behaviour",
        "NAME",
        "the kernels have this behaviour (no-NAME: have not), whatever their source",
    ),
    ("--iommu-known-issues", "FILE", "known issues in addition to the bundled ones, in TOML"),
    ("--iommu-machine", "NAME", "run on this machine"),
    ("--iommu-run-first", "NAME", "run this scenario before the others"),
)
_FILES = (
    ("--iommu-resolved", "run on the kernels of this file, which a job has built"),
    ("--iommu-events", "append a JSON line for each test that ends"),
)
_FLAGS = (
    (
        "--iommu-plain-failures",
        "neither decode splats nor rerun a failed test with the opposite behaviours",
    ),
    ("--iommu-keep-failed", "keep the guests of failed tests"),
)


def add(parser: pytest.Parser) -> None:
    """Add the options. All have the prefix ``--iommu-``, apart from the options of a project."""
    group = parser.getgroup("iommu-harness", "real kernels in QEMU")
    for name, metavar, text in _REPEATABLE:
        repeatable = f"{text}; may be repeated"
        group.addoption(name, action="append", default=[], metavar=metavar, help=repeatable)
    for name, text in _FILES:
        group.addoption(name, metavar="FILE", help=text)
    for name, text in _FLAGS:
        group.addoption(name, action="store_true", help=text)
    group.addoption("--iommu-qemu", default=topology.QEMU, metavar="PATH", help="the QEMU to run")


MARKERS = (
    "machines(*names): the machines that a test applies to, and runs on by default",
    "needs(*behaviours): behaviours without which a kernel cannot show what the test is about",
    "splats(*patterns): splats that the test provokes; each must appear",
    "known_issue(*ids, sometimes=False): the bugs that the test runs into on kernels that have "
    "them; each must appear, unless sometimes is true, as for a race",
)


def machine_names(config: pytest.Config) -> list[str]:
    """The machines of the command line, or the default."""
    names: list[str] = config.getoption("--iommu-machine")
    return names or [machines.DEFAULT]
