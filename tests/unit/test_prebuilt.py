# SPDX-License-Identifier: GPL-2.0-only
"""Prebuilt kernels: the layouts of their directories, and notes on missing features."""

import gzip
import lzma
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.kernel import build, prebuilt, spec

IMAGE = bytes(56) + b"ARM\x64" + bytes(100)
MODULE = b"\x7fELF\0license=GPL\0depends=\0vermagic=6.0.0\0"
LIBRARY = MODULE.replace(b"depends=\0", b"depends=\0name=lib\0")


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The unpacked kernel package of a distribution."""
    root = tmp_path / "linux-image ä"
    modules = root / "lib/modules/6.0.0-1-arm64"
    write(root / "boot/vmlinuz-6.0.0-1-arm64", IMAGE)
    write(root / "boot/config-6.0.0-1-arm64", "CONFIG_MODULE_FORCE_UNLOAD=y\n")
    write(
        modules / "kernel/drivers/e1000e.ko.xz",
        lzma.compress(MODULE.replace(b"depends=\0", b"depends=ptp-lib\0")),
    )
    write(modules / "kernel/drivers/ptp-lib.ko.gz", gzip.compress(LIBRARY))
    write(modules / "kernel/drivers/sound.ko", MODULE)
    write(modules / "kernel/drivers/virtio-iommu.ko", MODULE)
    write(
        modules / "modules.builtin",
        "kernel/arm-smmu-v3.ko\nkernel/arm_smmu.ko\nkernel/virtio_mmio.ko\n",
    )
    return root


def test_build_stores_the_modules_that_guests_use_uncompressed(package: Path) -> None:
    kernel = build.build(spec.parse(f"prebuilt:{package}"))
    assert kernel.release == "6.0.0-1-arm64"
    assert kernel.image.read_bytes() == IMAGE
    modules = {path.name: path.read_bytes()[:4] for path in kernel.modules.rglob("*.ko*")}
    assert modules == dict.fromkeys(("e1000e.ko", "ptp-lib.ko", "virtio-iommu.ko"), b"\x7fELF")


def test_notes_list_missing_and_built_in_features(package: Path) -> None:
    kernel = prebuilt.kernel(str(package))
    assert kernel.notes[0] == "arm_smmu_v3 is built in, so it cannot be loaded or removed"
    assert "arm_smmu is built in" in kernel.notes[1]
    assert not any("virtio_iommu" in note or "forced" in note for note in kernel.notes)
    assert not kernel.serial_ports
    assert any("share the kernel's console" in note for note in kernel.notes)


def test_changing_the_image_changes_the_key(package: Path) -> None:
    first = prebuilt.kernel(str(package))
    assert prebuilt.kernel(str(package)).key == first.key
    write(package / "boot/vmlinuz-6.0.0-1-arm64", IMAGE + b"x")
    assert prebuilt.kernel(str(package)).key != first.key


def test_kernel_rereads_a_changed_modules_builtin(package: Path) -> None:
    first = prebuilt.kernel(str(package))
    index = package / "lib/modules/6.0.0-1-arm64/modules.builtin"
    write(index, index.read_text() + "kernel/virtio_console.ko\n")
    second = prebuilt.kernel(str(package))
    assert (first.serial_ports, second.serial_ports) == (False, True)


def test_kernel_matches_an_image_with_the_modules_of_its_release(package: Path) -> None:
    write(package / "lib/modules/5.9.0/modules.builtin", "")
    assert prebuilt.kernel(str(package)).release == "6.0.0-1-arm64"
    write(package / "boot/vmlinuz-5.9.0", IMAGE)
    with pytest.raises(UsageError, match=r"and modules of 5\.9\.0 and 6\.0\.0-1-arm64"):
        prebuilt.kernel(str(package))


def test_kernel_rejects_a_decompression_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prebuilt, "_MAX_BYTES", 1000)
    write(tmp_path / "k/Image", gzip.compress(bytes(100_000)))
    write(tmp_path / "k/modules/6.1.0/modules.builtin", "")
    with pytest.raises(UsageError, match="larger than 512 MiB"):
        prebuilt.kernel(str(tmp_path / "k"))


def test_a_bare_image_has_the_release_of_its_modules_directory(tmp_path: Path) -> None:
    write(tmp_path / "k/Image", IMAGE)
    write(tmp_path / "k/modules/6.1.0/kernel/arm_smmu_v3.ko", MODULE)
    kernel = prebuilt.kernel(str(tmp_path / "k"))
    assert kernel.release == "6.1.0"
    assert "arm_smmu is missing" in kernel.notes


def test_kernel_unpacks_gzip_and_zboot_images(tmp_path: Path) -> None:
    write(tmp_path / "k/modules/6.1.0/modules.builtin", "")
    packed = gzip.compress(IMAGE)
    zboot = b"MZ\0\0zimg" + (64).to_bytes(4, "little") + len(packed).to_bytes(4, "little")
    for data in (packed, zboot.ljust(64, b"\0") + packed):
        write(tmp_path / "k/vmlinuz", data)
        assert prebuilt.kernel(str(tmp_path / "k")).image.read_bytes() == IMAGE


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (b"MZ" + bytes(100), "not an arm64 kernel"),
        (b"", "not an arm64"),
        (gzip.compress(IMAGE)[:-9], "cannot decompress"),
    ],
    # gzip output contains the time, and pytest-xdist's workers must agree on the ids.
    ids=["x86", "empty", "truncated"],
)
def test_kernel_rejects_an_invalid_image(tmp_path: Path, image: bytes, error: str) -> None:
    write(tmp_path / "k/Image", image)
    write(tmp_path / "k/modules/6.1.0/modules.builtin", "")
    with pytest.raises(UsageError, match=error):
        prebuilt.kernel(str(tmp_path / "k"))


def test_kernel_rejects_a_directory_without_image_or_modules(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no Image"):
        prebuilt.kernel(str(tmp_path))
    write(tmp_path / "Image", IMAGE)
    with pytest.raises(UsageError, match="has no modules directory"):
        prebuilt.kernel(str(tmp_path))
    with pytest.raises(UsageError, match="not a directory"):
        prebuilt.kernel("/nope")


def test_parse_rejects_variants_of_a_prebuilt_kernel(package: Path) -> None:
    with pytest.raises(UsageError, match="cannot be patched or configured"):
        spec.parse(f"prebuilt:{package}", variants=["kasan"])
