# SPDX-License-Identifier: GPL-2.0-only
"""The plugin's options and markers."""

import pytest

from harness.iommu import machines
from harness.machine import topology

# Options that may be repeated: the name, the argument, and the help text.
_REPEATABLE = (
    ("--iommu-kernel", "SPEC", "run on this kernel"),
    ("--iommu-variant", "NAME", "build this variant of the kernels"),
    ("--iommu-patch", "FILE", "apply this patch to the kernels"),
    ("--iommu-fragment", "FILE", "merge this fragment into the kernels' configuration"),
    (
        "--iommu-behaviour",
        "NAME",
        "assume that the kernels have this behaviour (no-NAME: that they do not have it)",
    ),
    ("--iommu-known-issues", "FILE", "read additional known issues from this TOML file"),
    ("--iommu-machine", "NAME", "run on this machine"),
    ("--iommu-qemu", "QEMU", "run this QEMU: a path, or debian:VERSION"),
    ("--iommu-run-first", "NAME", "run this scenario before the others"),
    ("--iommu-scenario", "NAME", "run only these parameters of a scenario: test_x.py::test_y[a]"),
)
_FILES = (
    ("--iommu-resolved", "run on the kernels that this file lists, which a job has built"),
    ("--iommu-events", "append a JSON line to this file for each test that ends"),
)
_FLAGS = (
    (
        "--iommu-plain-failures",
        "do not decode splats, and do not rerun failed tests with the opposite behaviours",
    ),
    ("--iommu-keep-failed", "save the guests of failed tests to directories that are kept"),
)


def add(parser: pytest.Parser) -> None:
    """Add the plugin's options. The prefix ``--iommu-`` avoids conflicts with a project's
    options."""
    group = parser.getgroup("iommu-harness", "real kernels in QEMU")
    for name, metavar, text in _REPEATABLE:
        repeatable = f"{text}; may be repeated"
        group.addoption(name, action="append", default=[], metavar=metavar, help=repeatable)
    for name, text in _FILES:
        group.addoption(name, metavar="FILE", help=text)
    for name, text in _FLAGS:
        group.addoption(name, action="store_true", help=text)
    text = "run each test N times, each time with guests of its own"
    group.addoption("--iommu-trials", type=int, default=1, metavar="N", help=text)


MARKERS = (
    "machines(*names): the machines that a test applies to, and runs on by default",
    "needs(*behaviours): behaviours without which a kernel cannot show what the test checks",
    "splats(*patterns): splats that the test provokes; each must appear",
    "known_issue(*ids, sometimes=False): the bugs that the test runs into on kernels that have "
    "them; each must appear, unless sometimes is true, which is for races",
)


def qemus(config: pytest.Config) -> list[str]:
    """The QEMUs on the command line, or the default QEMU."""
    choices: list[str] = config.getoption("--iommu-qemu")
    return choices or [topology.QEMU]


def machine_names(config: pytest.Config) -> list[str]:
    """The names of the machines on the command line, or the default machine's name."""
    names: list[str] = config.getoption("--iommu-machine")
    return names or [machines.DEFAULT]
