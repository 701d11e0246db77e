# SPDX-License-Identifier: GPL-2.0-only
"""The QEMUs of --qemu: which package has a version, and the labels of machines."""

import itertools
from collections.abc import Iterator, Sequence

import pytest

from harness.errors import ToolMissing, UsageError
from harness.host import debian
from harness.host.debian import Package
from harness.iommu import machines
from harness.machine import debian_qemu, qemu, qemus

SMMUV3 = machines.named("smmuv3")

ARCHIVE = {
    "bookworm": "1:7.2+dfsg-7+deb12u18+b3",
    "bullseye": "1:5.2+dfsg-11+deb11u3",
    "trixie": "1:10.0.13+ds-0+deb13u1",
    "sid": "1:11.1.3+ds-1",
    "trixie-backports": "1:11.1.3+ds-1~bpo13+1",
    "experimental": "1:11.2.0~rc1+ds-1",
}


@pytest.fixture
def read_suites(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The suites whose package lists have been read."""
    read: list[str] = []

    def candidates(
        name: str, architecture: str, suites: Sequence[debian.Suite] = debian.SUITES
    ) -> Iterator[Package]:
        for suite in suites:
            read.append(suite.name)
            yield Package(name, ARCHIVE[suite.name], suite, architecture)

    monkeypatch.setattr(debian, "candidates", candidates)
    return read


@pytest.mark.parametrize(
    ("version", "suite"),
    [
        ("7.2", "bookworm"),
        ("10", "trixie"),
        ("10.0.13", "trixie"),
        ("11.1", "sid"),
        ("11", "sid"),
        ("newest", "experimental"),
    ],
)
def test_version_is_found_in_the_first_suite_that_has_it(
    read_suites: list[str], version: str, suite: str
) -> None:
    assert debian_qemu.find(version).suite.name == suite
    if version != "newest":
        assert read_suites[-1] == suite


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("99", "Debian has no QEMU 99; .* one of 7.2, 10.0, 11.1, 11.2"),
        ("10.1", "Debian has no QEMU 10.1"),
        # The version is compared by numbers: 1 is not a prefix of 10.
        ("1", "Debian has no QEMU 1;"),
        ("5.2", "Debian has no QEMU 5.2"),
        ("", "invalid QEMU version ''"),
        ("trixie", "invalid QEMU version 'trixie'"),
        ("11.1/../..", "invalid QEMU version"),
    ],
)
@pytest.mark.usefixtures("read_suites")
def test_unknown_version_is_a_usage_error(version: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        qemus.program(f"debian:{version}")


def test_machines_on_several_qemus_have_the_version_in_their_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"a": "7.2.22", "b": "11.1.3", "c": "11.1.3"}
    monkeypatch.setattr(qemu, "version", lambda path: f"QEMU emulator version {versions[path]} (X)")
    virtio = machines.named("virtio-iommu")
    assert qemus.on_each([SMMUV3], ["a", "a"])[0].label == "smmuv3"
    found = qemus.on_each([SMMUV3, virtio], ["a", "b"])
    assert [(each.label, each.qemu) for each in found] == [
        ("smmuv3@7.2.22", "a"),
        ("smmuv3@11.1.3", "b"),
        ("virtio-iommu@7.2.22", "a"),
        ("virtio-iommu@11.1.3", "b"),
    ]
    labels = [each.label for each in qemus.on_each([SMMUV3], ["a", "b", "c"])]
    assert labels == ["smmuv3@7.2.22", "smmuv3@b", "smmuv3@c"]
    assert all(one != other for one, other in itertools.combinations(labels, 2))


def test_check_program_rejects_other_programs() -> None:
    with pytest.raises(UsageError, match="/bin/true does not emulate arm64"):
        qemu.check_program("/bin/true")
    with pytest.raises(ToolMissing, match="cannot find the program /nowhere"):
        qemu.check_program("/nowhere")
