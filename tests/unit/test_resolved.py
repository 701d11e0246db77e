# SPDX-License-Identifier: GPL-2.0-only
"""The kernels of a run: provenance, profiles and failed builds."""

from pathlib import Path

import pytest

from harness.errors import BuildError, UsageError
from harness.iommu import kernel_profile
from harness.iommu.evidence import Evidence
from harness.iommu.kernel_profile import KernelProfile
from harness.kernel import artifact, build, spec
from harness.kernel.artifact import Kernel
from harness.kernel.build import Outcome
from harness.kernel.spec import KernelSpec
from harness.suite import resolved
from harness.suite.resolved import Resolved

PROFILE = KernelProfile(
    {"one": Evidence(True, "source", "it has it")}, {"two": Evidence(False, "version", "a guess")}
)


def kernel(directory: Path) -> Kernel:
    directory.mkdir()
    (directory / "patches").mkdir()
    (directory / "patches/0001.patch").write_text("a patch")
    (directory / "config").write_text("CONFIG_A=y\n")
    made = Kernel("key", "label", "6.12.1", "gcc 12", directory, source="linux_6.12")
    artifact.write(made)
    return made


def test_resolved_kernels_keep_their_profile_and_provenance_on_disk(tmp_path: Path) -> None:
    found = Resolved(spec.parse("debian:6.12"), kernel(tmp_path / "kernel"), PROFILE)
    file = resolved.write([found], resolved.file_in(tmp_path))
    assert resolved.profiles(file) == {found.spec.key: PROFILE}
    (record,) = resolved.provenance_of(tmp_path)
    assert (record["label"], record["source"], record["compiler"]) == (
        "label",
        "linux_6.12",
        "gcc 12",
    )
    assert [len(digest) for digest in (*record["patches"], record["config"])] == [64, 64]


def test_different_kernel_specs_have_different_keys(tmp_path: Path) -> None:
    for name in ("a.patch", "b.patch"):
        (tmp_path / name).touch()
    specs = [
        spec.parse("debian:6.12"),
        spec.parse("debian:6.1"),
        spec.parse("debian:6.12", [tmp_path / "a.patch"]),
        spec.parse("debian:6.12", [tmp_path / "b.patch"]),
        spec.parse("debian:6.12", variants=["trace"]),
    ]
    assert len({each.key for each in specs}) == len(specs)


def test_build_continues_after_a_failed_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = spec.parse("debian:6.12"), spec.parse("debian:6.1")
    made = kernel(tmp_path / "kernel")

    def build_all(specs: list[KernelSpec]) -> list[Outcome]:
        error = BuildError("it does not compile")
        return [
            Outcome(each, None, error) if each.where == "6.1" else Outcome(each, made, None)
            for each in specs
        ]

    monkeypatch.setattr(build, "build_all", build_all)
    monkeypatch.setattr(kernel_profile, "of", lambda *_: PROFILE)
    found = resolved.build([good, bad], ["smmuv3", "virtio-iommu"], ())
    assert found.specs == (good,)
    assert [each.kernel for each in found.kernels] == [made]
    assert [str(each) for each in found.errors] == ["it does not compile"]
    with pytest.raises(BuildError, match="does not compile"):
        resolved.build([bad], ["smmuv3"], ())
    with pytest.raises(UsageError):
        resolved.build([good], ["nope"], ())
