# SPDX-License-Identifier: GPL-2.0-only
"""Real kernels: configuration, reasons for lost options, patches and module objects."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.iommu import inspection
from harness.iommu.version import Versions
from harness.kernel import build, config, spec
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.plugin.plugin import GuestFactory
from tests import command
from tests.conftest import PATCHES, REPORTS

# Options in the harness's fragments that older kernels lack, with the version that added them.
NEWER_OPTIONS = {
    "VFIO_GROUP": Versions(("6.12",)),
    "VFIO_CONTAINER": Versions(("6.12",)),
    "VFIO_DEVICE_CDEV": Versions(("6.12",)),
    "IOMMUFD": Versions(("6.12",)),
    "DRIVER_DEFERRED_PROBE_TIMEOUT": Versions(("7.2",)),
}


def test_every_fragment_option_is_set_or_newer_than_the_kernel(kernel: Kernel) -> None:
    values = config.values(kernel.config.read_text())
    options = [option for path in config.fragments() for option in config.read(path)]
    missing = {option.name for option in options if values.get(option.name, "n") != option.value}
    assert missing == {
        name for name, since in NEWER_OPTIONS.items() if not since.include(kernel.release)
    }


def test_configuration_returns_the_origin_of_each_option(kernel_spec: KernelSpec) -> None:
    lines = build.configuration(kernel_spec)
    origins = {line.option.name: line.origin for line in lines}
    assert origins["ARM_SMMU_V3"].startswith("iommu.config:")
    assert "ARM_SMMU_V3" in origins["IOMMU_API"] or "VFIO" in origins["IOMMU_API"]
    assert origins["HZ"].startswith("default of kernel/Kconfig.hz:")
    assert "Kconfig" not in origins.values()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("CONFIG_INTEL_IOMMU=y", "it depends on"),
        ("CONFIG_X86_64=y", "it is an option of other architectures"),
        ("CONFIG_FAIL_FUNCTION=y", "FUNCTION_ERROR_INJECTION [=n]"),
        ("# CONFIG_IOMMU_API is not set", "it is selected by "),
        ("CONFIG_IOMMU_API=m", "it is selected by "),
        ("CONFIG_PCI_ATS=y", "it cannot be set"),
        ("CONFIG_ARM_SMMU_V4=m", "this kernel does not have the option"),
    ],
)
def test_build_reports_why_an_option_is_lost(
    kernel_spec: KernelSpec, tmp_path: Path, line: str, why: str
) -> None:
    fragment = tmp_path / "mine.config"
    fragment.write_text(f"{line}\n")
    with pytest.raises(UsageError) as caught:
        build.build(replace(kernel_spec, fragments=(fragment,)))
    assert caught.value.message.startswith(f"mine.config:1: {line} became ")
    assert why in caught.value.message


def test_inspect_has_no_findings_for_the_iommu_drivers(kernel: Kernel) -> None:
    result = inspection.inspect(kernel, None)
    assert result.findings == ()
    drivers = {module.name: module for module in result.modules}
    assert drivers.keys() == {"arm_smmu_v3", "arm_smmu", "virtio_iommu"}
    assert drivers["arm_smmu_v3"].object.compatibles == ("arm,smmu-v3",)
    assert "arm,mmu-500" in drivers["arm_smmu"].object.compatibles
    assert drivers["virtio_iommu"].object.values("alias") == ["virtio:d00000017v*"]
    for module in drivers.values():
        imports = {each.symbol: each for each in module.imports}
        register = next(each for name, each in imports.items() if "iommu_device_register" in name)
        assert (register.provider, register.gpl) == ("vmlinux", True)
        assert len(module.object.build_id) == len(result.build_id) == 40


def test_exports_match_module_symvers(kernel: Kernel) -> None:
    """modpost writes Module.symvers. In 7.2 a flag marks GPL exports, not a section."""
    rows = (kernel.directory / "Module.symvers").read_text().splitlines()
    fields = [row.split("\t") for row in rows]
    symvers = {field[1]: "GPL" in field[3] for field in fields if field[2] == "vmlinux"}
    world = inspection.read_vmlinux(kernel)
    assert world
    assert world.exports == symvers


def test_built_kernel_boots_as_a_prebuilt_kernel(
    kernel: Kernel, guest_factory: GuestFactory
) -> None:
    prebuilt = build.build(spec.parse(f"prebuilt:{kernel.directory}"))
    assert prebuilt.serial_ports
    assert not any("built in" in note for note in prebuilt.notes)
    guest = guest_factory("smmuv3", kernel=prebuilt)
    assert guest.run("modprobe e1000e; modprobe arm-smmu-v3").status == 0
    assert guest.run("uname -r").out.strip() == kernel.release


def test_build_notes_moved_hunks(tmp_path: Path) -> None:
    """The patch expects its hunks a hundred lines further up."""
    text = (PATCHES / "6.12-no-module-pin.patch").read_text()
    moved = re.sub(r"@@ -4(\d\d,\d+) \+4", r"@@ -3\1 +3", text)
    assert moved != text
    patch = tmp_path / "moved.patch"
    patch.write_text(moved)
    kernel = build.build(spec.parse("debian:6.12", [patch]))
    assert kernel.notes
    assert all("patch 1, drivers/iommu/iommu.c, hunk" in note for note in kernel.notes)


def test_repro_shows_the_nearest_lines_if_a_patch_does_not_apply() -> None:
    report = REPORTS / "platform-client-pins-smmu.transcript"
    patch = PATCHES / "6.12-no-module-pin.patch"
    done = command.run("repro", report, "--kernel", "debian:5.10", "--patch", patch)
    assert done.status == 2
    problem = f"iommu-harness: {patch.name} does not apply to drivers/iommu/iommu.c:"
    lines = iter(done.err.splitlines())  # on a slow host, after lines of progress
    assert any(line.startswith(problem) for line in lines), done.err
    assert any(line.startswith("+") for line in lines)


def test_repro_continues_after_an_invalid_kernel(tmp_path: Path) -> None:
    report = REPORTS / "platform-client-pins-smmu.transcript"
    words = ["--kernel", "debian:6.12", "--kernel", f"tree:{tmp_path}"]
    done = command.run("repro", report, *words, "--run-dir", tmp_path / "run")
    assert done.status == 2  # the exit status of the invalid kernel
    good, bad = done.out.splitlines()[-2:]
    assert "reproduced" in good
    assert "0 2 2 2" in good
    assert "not a Linux source tree" in bad
