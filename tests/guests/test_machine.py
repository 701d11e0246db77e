# SPDX-License-Identifier: GPL-2.0-only
"""The initramfs and the device tree of a guest."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.host import paths
from harness.iommu import machines
from harness.kernel.artifact import Kernel
from harness.machine import devicetree
from harness.machine.device import EmulatedDevice
from harness.plugin.plugin import GuestFactory
from harness.rootfs import initramfs


def test_initramfs_is_reproducible(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = initramfs.image(kernel).read_bytes()
    monkeypatch.setenv("IOMMU_HARNESS_CACHE", str(tmp_path / "cache"))
    assert initramfs.image(kernel).read_bytes() == first


def test_blob_rejects_wide_stream_ids_and_invalid_overlays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlays = tmp_path / "dts"
    overlays.mkdir()
    text = (paths.data("dts") / "platform-clients.dts").read_text()
    (overlays / "wide.dts").write_text(text.replace("0xff08", "0x10000"))
    (overlays / "broken.dts").write_text(text.replace("&iommu", "&nobody"))
    monkeypatch.setattr(paths, "data", lambda _name: overlays)
    machine = machines.named("smmuv3")
    with pytest.raises(
        UsageError, match="stream ID 0x10000, but stream IDs of smmuv3 have 16 bits"
    ):
        devicetree.blob(replace(machine, overlays=("wide",)))
    with pytest.raises(UsageError, match=r"broken\.dts does not apply"):
        devicetree.blob(replace(machine, overlays=("broken",)))
    with pytest.raises(UsageError, match="unknown overlay 'nope'"):
        devicetree.blob(replace(machine, overlays=("nope",)))


def test_guest_has_only_the_virtio_mmio_slots_in_use(guest_factory: GuestFactory) -> None:
    """QEMU's virt machine has 32 virtio-mmio slots. The channels use one, and SSH uses another."""
    plain = machines.named("smmuv3")
    more = tuple(EmulatedDevice("virtio-rng-device", f"rng{number}") for number in range(3))
    for machine, count in ((plain, 2), (replace(plain, devices=(*plain.devices, *more)), 5)):
        state = guest_factory(machine).state()
        assert sum(name.endswith(".virtio_mmio") for name in state.devices) == count
