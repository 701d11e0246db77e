# SPDX-License-Identifier: GPL-2.0-only
"""Guests for pytest. ``def test_x(guest): ...`` runs on each kernel and machine given by
``--iommu-kernel`` and ``--iommu-machine``, each time in a fresh guest.

The report of a failed test shows the commands that ran in its guests, the kernel's log, the state
changes, and the command that opens a shell in the final state.

A test fails if the kernel of one of its guests reports a splat, unless the test expects it
(``@pytest.mark.splats``) or a known issue explains it (``@pytest.mark.known_issue``). A known
issue must appear on kernels that have it. ``@pytest.mark.needs`` lists behaviours; the test is
not applicable to a kernel that lacks one of them.
"""

import contextlib
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from harness.errors import HarnessError, is_host_trouble
from harness.guest import snapshot
from harness.guest.guest import Guest
from harness.iommu import clients, machine_file
from harness.iommu.behaviour import Behaviour
from harness.iommu.kernel_profile import KernelProfile
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.machine import qemus
from harness.machine.topology import Machine
from harness.plugin import applicable, events, kernels, options, render, reruns, selection, verdict
from harness.plugin.applicable import NotApplicable
from harness.plugin.events import Events, Property
from harness.plugin.render import StartedGuest
from harness.plugin.reruns import Assumptions

# Memory that QEMU uses in addition to the machine's memory, in MiB.
_QEMU_MEMORY = 200


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    for line in options.MARKERS:
        config.addinivalue_line("markers", line)
    config.pluginmanager.register(applicable)
    file: str | None = config.getoption("--iommu-events")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Events(Path(file)))
    try:
        kernels.named(config)
        kernels.overrides(config)
        kernels.known_issues(config)
        for name in config.getoption("--iommu-machine"):
            machine_file.machine(name)
        for choice in options.qemus(config):
            qemus.program(choice)
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    selection.parametrize(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selection.order(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that has a kernel, and if it fails rerun it to find out why."""
    if _spec(item) is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reruns.run(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _spec(item: pytest.Item) -> KernelSpec | None:
    callspec = getattr(item, "callspec", None)
    spec = callspec.params.get("kernel_spec") if callspec else None
    return spec if isinstance(spec, KernelSpec) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """The number of workers for ``-n auto``, if kernels or machines are given. It is three for two
    cores, because a guest waits a third of the time, or less if memory is short. In other test
    runs, xdist decides."""
    named = config.getoption("--iommu-kernel") or config.getoption("--iommu-machine")
    if not named or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    names = options.machine_names(config)
    memory = max(machine_file.machine(name).memory for name in names) + _QEMU_MEMORY
    cores = len(os.sched_getaffinity(0))
    return max(1, min(_available_memory() // memory, cores + cores // 2))


def _available_memory() -> int:
    """The available memory in MiB, including caches that the kernel can drop."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) >> 10


@pytest.fixture(scope="session")
def kernel(kernel_spec: KernelSpec, request: pytest.FixtureRequest) -> Kernel:
    """The kernel under test. It is built if it is not in the cache."""
    return kernels.built(request.config, kernel_spec)


@dataclass(slots=True)
class _Guests:
    """The guests of one test."""

    started: list[StartedGuest] = field(default_factory=list)


_GUESTS = pytest.StashKey[_Guests]()


class Shows(Protocol):
    """The type of the fixture ``shows``."""

    def __call__(self, behaviour: Behaviour) -> bool: ...


@pytest.fixture
def shows(kernel_spec: KernelSpec, request: pytest.FixtureRequest) -> Shows:
    """A function that returns whether the kernel under test has a behaviour, by its source or the
    user's override: ``shows(GROUPS_AT_REGISTRATION)``."""
    table = kernels.profile(request.config, kernel_spec).behaviours
    assumptions: Assumptions = request.node.stash.setdefault(reruns.ASSUMPTIONS, Assumptions())

    def shown(behaviour: Behaviour) -> bool:
        return assumptions.shown(behaviour.name, table[behaviour.name])

    return shown


class ExpectSplat(Protocol):
    """The type of the fixture ``expect_splat``."""

    def __call__(self, *patterns: str, sometimes: bool = False) -> None: ...


# Maps the pattern of a splat to whether the splat appears only sometimes.
_EXPECTED = pytest.StashKey[dict[str, bool]]()


@pytest.fixture
def expect_splat(request: pytest.FixtureRequest) -> ExpectSplat:
    """A function that declares expected splats, as the marker ``splats`` does. It is for a test
    that provokes splats only on some kernels. The arguments are patterns (finding.Pattern):
    ``expect_splat("WARNING in iommu_setup_default_domain")``. With ``sometimes``, the splats need
    not appear."""
    expected = request.node.stash.setdefault(_EXPECTED, {})

    def expect(*patterns: str, sometimes: bool = False) -> None:
        expected.update(dict.fromkeys(patterns, sometimes))

    return expect


class GuestFactory(Protocol):
    """The type of the fixture ``guest_factory``."""

    def __call__(
        self,
        machine: str | Machine | None = None,
        *warm_up: str,
        bound: bool = False,
        kernel: Kernel | None = None,
        arguments: str = "",
        limit: float | None = None,
    ) -> Guest: ...


@pytest.fixture
def guest_factory(
    request: pytest.FixtureRequest, kernel: Kernel, tmp_path: Path
) -> Iterator[GuestFactory]:
    """A function that starts a guest on a machine, runs commands in it and returns it:
    ``guest_factory("smmuv3+nvme", "modprobe arm-smmu-v3")``. The guest ends with the test.

    The default is the machine under test. With ``"+nvme"``, the devices of the preset replace its
    devices. With ``bound``, the drivers of the IOMMU and of its devices are loaded before the
    commands run."""
    guests = request.node.stash.setdefault(_GUESTS, _Guests())
    config = request.config
    callspec = getattr(request.node, "callspec", None)
    under_test = callspec.params.get("machine") if callspec else None
    default = under_test or options.machine_names(config)[0]
    program = under_test.qemu if under_test else options.qemus(config)[0]
    own = kernel
    with contextlib.ExitStack() as stack:

        def start(
            machine: str | Machine | None = None,
            *warm_up: str,
            bound: bool = False,
            kernel: Kernel | None = None,
            arguments: str = "",
            limit: float | None = None,
        ) -> Guest:
            directory = tmp_path / f"guest{len(guests.started) + 1}"
            directory.mkdir()
            chosen = machine or default
            if isinstance(chosen, str):
                if chosen.startswith("+"):
                    chosen = _base(default) + chosen
                chosen = machine_file.machine(chosen, program)
            guest = stack.enter_context(
                snapshot.started(
                    kernel or own,
                    chosen,
                    directory,
                    (*(clients.warm_up(chosen) if bound else ()), *warm_up),
                    arguments=arguments,
                    limit=limit,
                )
            )
            guests.started.append(StartedGuest(guest, guest.state(), len(guest.kmsg())))
            return guest

        yield start


def _base(machine: str | Machine) -> str:
    """The name of the machine without presets."""
    name = machine if isinstance(machine, str) else machine.name
    return name.partition("+")[0]


@pytest.fixture
def guest(machine: Machine, guest_factory: GuestFactory) -> Guest:
    """A fresh guest of the kernel under test, on the machine under test."""
    return guest_factory(machine)


def guests_of(item: pytest.Item) -> list[Guest]:
    """The guests that a test has started."""
    guests = item.stash.get(_GUESTS, None)
    return [each.guest for each in guests.started] if guests else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if facts := events.facts(item):
        events.add_property(report, Property.FACTS, facts)
    error = call.excinfo.value if call.excinfo else None
    if is_host_trouble(error):
        events.add_property(report, Property.HOST_TROUBLE, True)
    if isinstance(error, NotApplicable):
        events.add_property(report, Property.NOT_APPLICABLE, True)
    guests = item.stash.get(_GUESTS, None)
    if guests and call.when == "call":
        verdict.judge(
            item,
            report,
            error,
            guests=[each.guest for each in guests.started],
            expected=_expected(item),
            profile=_profile(item),
        )
        if report.failed:
            for number, each in enumerate(guests.started, start=1):
                title = f"guest {number}, {each.guest.machine.label}"
                report.sections.append((title, render.section(item, report, number, each)))
    return report


def _expected(item: pytest.Item) -> dict[str, bool]:
    provoked = (each for marker in item.iter_markers("splats") for each in marker.args)
    return dict.fromkeys(provoked, False) | item.stash.setdefault(_EXPECTED, {})


def _profile(item: pytest.Item) -> KernelProfile:
    """The profile of the test's kernel. It is empty for a test that chooses the kernel itself."""
    spec = _spec(item)
    return kernels.profile(item.config, spec) if spec else KernelProfile({}, {})
