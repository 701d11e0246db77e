# SPDX-License-Identifier: GPL-2.0-only
"""Real kernels and guests for the tests below scenarios/."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from harness.guest import guest
from harness.guest.guest import Guest
from harness.kernel import build, spec
from harness.kernel.artifact import Kernel
from harness.machine import topology
from harness.machine.topology import Machine

DEFAULT_KERNELS = ["debian:6.12"]

REPORTS = Path(__file__).parent / "reports"
PATCHES = Path(__file__).parent / "patches"


def pytest_configure() -> None:
    """A shell that runs tests in the background has them ignore ^C, nohup a hangup,
    and what they start inherits that; a handler of our own is not inherited."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kernel", action="append", default=[], help="kernel spec to test; may be repeated"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel_spec" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--kernel") or DEFAULT_KERNELS
        ids = [text.partition(":")[2] for text in chosen]
        metafunc.parametrize("kernel_spec", chosen, ids=ids, scope="session")


@pytest.fixture(scope="session")
def kernel(kernel_spec: str) -> Kernel:
    """The kernel under test, built if it is not yet in the cache."""
    return build.build(spec.parse(kernel_spec))


class Boot(Protocol):
    """Boots a guest that is ended with the test."""

    def __call__(
        self,
        machine: str | Machine,
        *,
        kernel: Kernel | None = None,
        arguments: str = "",
        limit: float | None = None,
    ) -> Guest: ...


@pytest.fixture
def boot(kernel: Kernel, tmp_path: Path) -> Iterator[Boot]:
    """``boot("smmuv3")``: a guest of the kernel under test."""
    default = kernel
    with contextlib.ExitStack() as stack:
        number = 0

        def booted(
            machine: str | Machine,
            *,
            kernel: Kernel | None = None,
            arguments: str = "",
            limit: float | None = None,
        ) -> Guest:
            nonlocal number
            number += 1
            directory = tmp_path / f"guest{number}"
            directory.mkdir()
            wanted = topology.named(machine) if isinstance(machine, str) else machine
            return stack.enter_context(
                guest.booted(kernel or default, wanted, directory, arguments=arguments, limit=limit)
            )

        yield booted


MACHINES = {
    "smmuv3": topology.named("smmuv3"),
    "virtio-iommu": topology.named("virtio-iommu"),
    "smmuv3-single-console": replace(topology.named("smmuv3"), single_console=True),
}


@pytest.fixture(params=MACHINES)
def any_guest(request: pytest.FixtureRequest, boot: Boot) -> Guest:
    """A guest on each machine, and one with everything on a single console."""
    return boot(MACHINES[request.param])


@pytest.fixture
def smmuv3(boot: Boot) -> Guest:
    """A guest behind an SMMUv3, with two platform clients and an e1000e."""
    return boot("smmuv3")


@pytest.fixture
def virtio_iommu(boot: Boot) -> Guest:
    """A guest behind a virtio-iommu, with an e1000e."""
    return boot("virtio-iommu")
