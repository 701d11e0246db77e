# SPDX-License-Identifier: GPL-2.0-only
"""Guests for pytest: ``def test_x(guest): ...`` runs on every kernel and machine that
``--kernel`` and ``--machine`` name, each test in a guest of its own.

A failing test's report shows what was run in its guests, what the kernel said, what
changed, and the command that opens a shell in that very state.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import pytest

from harness.errors import HarnessError, UsageError
from harness.guest import snapshot
from harness.guest.guest import Guest
from harness.guest.state import State, changes
from harness.host import rundir
from harness.host.text import printable
from harness.kernel import build, spec
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.machine import composed, topology
from harness.machine.topology import Machine

DEFAULT_KERNEL = "debian:6.12"
DEFAULT_MACHINE = "smmuv3"

# What a guest costs beside the memory of its machine, MiB: QEMU itself.
_QEMU_MEMORY = 200


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("iommu-harness", "real kernels in QEMU")
    group.addoption("--kernel", action="append", default=[], metavar="SPEC", help="repeatable")
    group.addoption("--variant", action="append", default=[], metavar="NAME", help="repeatable")
    group.addoption("--machine", action="append", default=[], metavar="NAME", help="repeatable")
    group.addoption("--qemu", default=topology.QEMU, metavar="PATH", help="another QEMU")
    group.addoption(
        "--keep-failed", action="store_true", help="keep the guests of failed tests for good"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "machines(*names): the machines that a test makes sense on; alone, those it runs on",
    )
    try:
        _kernels(config)
        for name in config.getoption("--machine"):
            composed.machine(name)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each kernel and, if it has one, each machine: ``[6.12-smmuv3]``."""
    names = metafunc.fixturenames
    if "kernel_spec" not in names:
        return
    kernels = _kernels(metafunc.config)
    if "machine" not in names:
        ids = [each.where for each in kernels]
        metafunc.parametrize("kernel_spec", kernels, ids=ids, scope="session")
        return
    pairs = [
        (kernel.with_variants(machine.variants), machine)
        for kernel in kernels
        for machine in _machines(metafunc)
    ]
    ids = [f"{kernel.where}-{machine.name}" for kernel, machine in pairs]
    metafunc.parametrize("kernel_spec, machine", pairs, ids=ids, scope="session")


def _kernels(config: pytest.Config) -> list[KernelSpec]:
    variants: list[str] = config.getoption("--variant")
    texts = _asked(config, "--kernel", DEFAULT_KERNEL)
    return [spec.parse(text, variants=variants) for text in texts]


def _asked(config: pytest.Config, option: str, default: str) -> list[str]:
    given: list[str] = config.getoption(option)
    return given or [default]


def _machines(metafunc: pytest.Metafunc) -> list[Machine]:
    """Those of the command line that the test makes sense on; its own without any."""
    marker = metafunc.definition.get_closest_marker("machines")
    sensible = list(marker.args) if marker else []
    given: list[str] = metafunc.config.getoption("--machine")
    names = given or sensible or [DEFAULT_MACHINE]
    qemu = metafunc.config.getoption("--qemu")
    chosen = [name for name in names if not sensible or name in sensible]
    return [replace(composed.machine(name), qemu=qemu) for name in chosen]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """``-n auto``: fewer workers than there are cores where there is not the memory for
    so many guests; else what xdist thinks best."""
    names = _asked(config, "--machine", DEFAULT_MACHINE)
    memory = max(composed.machine(name).memory for name in names) + _QEMU_MEMORY
    workers = _available_memory() // memory
    return max(1, workers) if workers < (os.cpu_count() or 1) else None


def _available_memory() -> int:
    """MiB that programs can have, caches that the kernel would drop for them included."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) >> 10


@pytest.fixture(scope="session")
def kernel(kernel_spec: KernelSpec) -> Kernel:
    """The kernel under test, built if it is not yet in the cache."""
    return _built(kernel_spec)


@functools.cache
def _built(wanted: KernelSpec) -> Kernel:
    return build.build(wanted)


@dataclass(slots=True)
class _Watched:
    """A guest of a test, and what its kernel showed and had said when the test got it."""

    guest: Guest
    state: State
    records: int


@dataclass(slots=True)
class _Guests:
    """All guests of one test."""

    watched: list[_Watched] = field(default_factory=list)


_GUESTS = pytest.StashKey[_Guests]()


class GuestFactory(Protocol):
    """Starts a guest that is ended with the test, on the machine under test or another."""

    def __call__(
        self,
        machine: str | Machine | None = None,
        *warm_up: str,
        kernel: Kernel | None = None,
        arguments: str = "",
        limit: float | None = None,
    ) -> Guest: ...


@pytest.fixture
def guest_factory(
    request: pytest.FixtureRequest, kernel: Kernel, tmp_path: Path
) -> Iterator[GuestFactory]:
    """``guest_factory("smmuv3+nvme", "modprobe arm-smmu-v3")``: a guest of the kernel
    under test on that machine, in which the commands have been run."""
    guests = request.node.stash.setdefault(_GUESTS, _Guests())
    config = request.config
    callspec = getattr(request.node, "callspec", None)
    under_test = callspec.params.get("machine") if callspec else None
    default = under_test or _asked(config, "--machine", DEFAULT_MACHINE)[0]
    own = kernel
    with contextlib.ExitStack() as stack:

        def start(
            machine: str | Machine | None = None,
            *warm_up: str,
            kernel: Kernel | None = None,
            arguments: str = "",
            limit: float | None = None,
        ) -> Guest:
            directory = tmp_path / f"guest{len(guests.watched) + 1}"
            directory.mkdir()
            wanted = machine or default
            if isinstance(wanted, str):
                wanted = replace(composed.machine(wanted), qemu=config.getoption("--qemu"))
            running = stack.enter_context(
                snapshot.started(
                    kernel or own,
                    wanted,
                    directory,
                    warm_up,
                    arguments=arguments,
                    limit=limit,
                )
            )
            guests.watched.append(_Watched(running, running.state(), len(running.kmsg)))
            return running

        yield start


@pytest.fixture
def guest(machine: Machine, guest_factory: GuestFactory) -> Guest:
    """A fresh guest of the kernel and on the machine under test."""
    return guest_factory(machine)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    guests = item.stash.get(_GUESTS, None)
    if guests and report.failed and call.when == "call":
        for number, watched in enumerate(guests.watched, start=1):
            title = f"guest {number}, {watched.guest.machine.name}"
            report.sections.append((title, _story(item, number, watched)))
    return report


def _story(item: pytest.Item, number: int, watched: _Watched) -> str:
    guest = watched.guest
    parts = [_paragraph("what was run", guest.transcript())]
    said = [f"{each.time:12.6f} {each.text}" for each in guest.kmsg[watched.records :]]
    parts.append(_paragraph("what the kernel said", "\n".join(said)))
    parts.append(_paragraph("what changed", _attempt(lambda: _changes(watched))))
    parts.append(_paragraph("a shell in this state", _attempt(lambda: _keep(item, number, guest))))
    return "\n".join(parts)


def _paragraph(title: str, text: str) -> str:
    return f"-- {title}\n{printable(text) if text else 'nothing'}"


def _attempt(work: Callable[[], str]) -> str:
    """What it says, or why it cannot: the guest may be what has failed."""
    try:
        return work()
    except (HarnessError, OSError) as error:
        return f"not to be had: {error}"


def _changes(watched: _Watched) -> str:
    return "\n".join(changes(watched.state, watched.guest.state()))


def _keep(item: pytest.Item, number: int, guest: Guest) -> str:
    if item.config.getoption("--keep-failed"):
        directory = rundir.create(f"failed-{item.name}-{number}")
    else:
        directory = guest.directory
    snapshot.save(guest, directory / "state-at-failure")
    return f"iommu-harness shell {directory / 'state-at-failure'}"
