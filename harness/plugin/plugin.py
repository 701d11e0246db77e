# SPDX-License-Identifier: GPL-2.0-only
"""Guests for pytest: ``def test_x(guest): ...`` runs on every kernel and machine that
``--iommu-kernel`` and ``--iommu-machine`` name, each test in a guest of its own.

A failing test's report shows what was run in its guests, what the kernel said, what
changed, and the command that opens a shell in that very state.

A test in whose guests the kernel reports a splat fails, unless it names it
(``@pytest.mark.splats``) or it is a known issue's (``@pytest.mark.known_issue``). A known
issue has to appear where it applies. ``@pytest.mark.needs`` names the behaviours without
which a kernel cannot show a scenario, which is then not applicable.
"""

import contextlib
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn, Protocol

import pytest

from harness.errors import UsageError, is_host_trouble
from harness.guest import snapshot
from harness.guest.guest import Guest
from harness.iommu import clients, machine_file
from harness.iommu.behaviour import Behaviour
from harness.iommu.kernel_profile import KernelProfile
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.machine.topology import Machine
from harness.plugin import events, kernels, options, render, reruns, selection, verdict
from harness.plugin.events import NOT_APPLICABLE, Events
from harness.plugin.render import Watched
from harness.plugin.reruns import Doubts

# What a guest costs beside the memory of its machine, MiB: QEMU itself.
_QEMU_MEMORY = 200


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    for line in options.MARKERS:
        config.addinivalue_line("markers", line)
    file: str | None = config.getoption("--iommu-events")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Events(Path(file)))
    try:
        kernels.named(config)
        kernels.claims(config)
        for name in config.getoption("--iommu-machine"):
            machine_file.machine(name)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    selection.parametrize(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selection.order(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Of a test that is about a kernel, one that fails is looked into."""
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
    """``-n auto``, where kernels or machines are named: half as many workers again as there
    are cores, because a guest waits for a third of its time, and fewer where memory is short.
    Other test runs are left to xdist."""
    named = config.getoption("--iommu-kernel") or config.getoption("--iommu-machine")
    if not named or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    names = options.machines(config)
    memory = max(machine_file.machine(name).memory for name in names) + _QEMU_MEMORY
    cores = len(os.sched_getaffinity(0))
    return max(1, min(_available_memory() // memory, cores + cores // 2))


def _available_memory() -> int:
    """MiB that programs can have, caches that the kernel would drop for them included."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) >> 10


@pytest.fixture(scope="session")
def kernel(kernel_spec: KernelSpec, request: pytest.FixtureRequest) -> Kernel:
    """The kernel under test, built if it is not yet in the cache."""
    return kernels.built(request.config, kernel_spec)


@dataclass(slots=True)
class _Guests:
    """All guests of one test."""

    watched: list[Watched] = field(default_factory=list)


_GUESTS = pytest.StashKey[_Guests]()


class Shows(Protocol):
    """Whether the kernel under test shows a behaviour."""

    def __call__(self, wanted: Behaviour) -> bool: ...


@pytest.fixture
def shows(kernel_spec: KernelSpec, request: pytest.FixtureRequest) -> Shows:
    """``shows(GROUPS_AT_REGISTRATION)``: by the kernel's source, or what the user says."""
    table = kernels.profile(request.config, kernel_spec).behaviours
    doubts: Doubts = request.node.stash.setdefault(reruns.DOUBTS, Doubts())

    def shown(wanted: Behaviour) -> bool:
        return doubts.shown(wanted.name, table[wanted.name])

    return shown


class ExpectSplat(Protocol):
    """Names what the test is about to make the kernel report, as the marker ``splats``
    does, where that depends on the kernel; ``sometimes``, where on chance as well."""

    def __call__(self, *patterns: str, sometimes: bool = False) -> None: ...


# By the pattern, whether it is only sometimes reported.
_EXPECTED = pytest.StashKey[dict[str, bool]]()


@pytest.fixture
def expect_splat(request: pytest.FixtureRequest) -> ExpectSplat:
    """``expect_splat("WARNING in iommu_setup_default_domain")``, as finding.Pattern has it."""
    expected = request.node.stash.setdefault(_EXPECTED, {})

    def expect(*patterns: str, sometimes: bool = False) -> None:
        expected.update(dict.fromkeys(patterns, sometimes))

    return expect


@pytest.fixture(autouse=True)
def _applicable(request: pytest.FixtureRequest) -> None:
    """A scenario that the kernel cannot show is not run, and says why."""
    if "kernel_spec" not in request.fixturenames:
        return  # another's test: its markers are its own
    wanted: list[Behaviour] = [
        each for marker in request.node.iter_markers("needs") for each in marker.args
    ]
    if not wanted:
        return
    spec: KernelSpec = request.getfixturevalue("kernel_spec")
    table = kernels.profile(request.config, spec).behaviours
    for each in wanted:
        evidence = table[each.name]
        if not evidence.shown:
            not_applicable(f"requires that {each.summary} ({each.source}): {evidence.why}")


def not_applicable(reason: str) -> NoReturn:
    """Ends a test that this kernel or machine cannot show."""
    pytest.skip(NOT_APPLICABLE + reason)


class GuestFactory(Protocol):
    """Starts a guest that is ended with the test, on the machine under test or another."""

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
    """``guest_factory("smmuv3+nvme", "modprobe arm-smmu-v3")``: a guest of the kernel
    under test on that machine, in which the commands have been run. ``"+nvme"`` puts the
    preset's devices in place of those of the machine under test; ``bound`` loads the drivers
    of the IOMMU and its devices first."""
    guests = request.node.stash.setdefault(_GUESTS, _Guests())
    config = request.config
    callspec = getattr(request.node, "callspec", None)
    under_test = callspec.params.get("machine") if callspec else None
    default = under_test or options.machines(config)[0]
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
            directory = tmp_path / f"guest{len(guests.watched) + 1}"
            directory.mkdir()
            wanted = machine or default
            if isinstance(wanted, str):
                if wanted.startswith("+"):
                    wanted = _base(default) + wanted
                wanted = replace(
                    machine_file.machine(wanted), qemu=config.getoption("--iommu-qemu")
                )
            running = stack.enter_context(
                snapshot.started(
                    kernel or own,
                    wanted,
                    directory,
                    (*(clients.warm_up(wanted) if bound else ()), *warm_up),
                    arguments=arguments,
                    limit=limit,
                )
            )
            guests.watched.append(Watched(running, running.state(), len(running.kmsg())))
            return running

        yield start


def _base(machine: str | Machine) -> str:
    """The machine's name without presets."""
    name = machine if isinstance(machine, str) else machine.name
    return name.partition("+")[0]


@pytest.fixture
def guest(machine: Machine, guest_factory: GuestFactory) -> Guest:
    """A fresh guest of the kernel and on the machine under test."""
    return guest_factory(machine)


def guests_of(item: pytest.Item) -> list[Guest]:
    """The guests that a test has started and that are not yet ended."""
    guests = item.stash.get(_GUESTS, None)
    return [each.guest for each in guests.watched] if guests else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if facts := events.facts(item):
        report.user_properties.append((events.FACTS, facts))
    error = call.excinfo.value if call.excinfo else None
    if is_host_trouble(error):
        report.user_properties.append((events.HOST, True))
    guests = item.stash.get(_GUESTS, None)
    if guests and call.when == "call":
        running = [each.guest for each in guests.watched]
        verdict.judge(
            item, report, error, guests=running, expected=_expected(item), profile=_profile(item)
        )
        if report.failed:
            for number, watched in enumerate(guests.watched, start=1):
                title = f"guest {number}, {watched.guest.machine.name}"
                report.sections.append((title, render.story(item, report, number, watched)))
    return report


def _expected(item: pytest.Item) -> dict[str, bool]:
    provoked = (each for marker in item.iter_markers("splats") for each in marker.args)
    return dict.fromkeys(provoked, False) | item.stash.setdefault(_EXPECTED, {})


def _profile(item: pytest.Item) -> KernelProfile:
    """Of the test's kernel; nothing of a test that brings its own."""
    spec = _spec(item)
    return kernels.profile(item.config, spec) if spec else KernelProfile({}, {})
