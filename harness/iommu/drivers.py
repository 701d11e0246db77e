# SPDX-License-Identifier: GPL-2.0-only
"""The IOMMU drivers under test: their names in the kernel and in QEMU."""

from dataclasses import dataclass

from harness.machine.topology import Iommu

SMMUV3 = Iommu(
    model="arm-smmuv3",
    machine_option="iommu=smmuv3",
    compatible="arm,smmu-v3",
    driver="arm_smmu_v3",
    stream_id_bits=16,
    translates=("smmuv3_translate_success",),
    commands=("smmuv3_cmdq_opcode", "smmuv3_cmdq_cfgi_ste", "smmuv3_cmdq_cfgi_cd"),
    stages=("1", "2", "nested"),
)
VIRTIO_IOMMU = Iommu(
    model="virtio-iommu-pci",
    machine_option="",
    compatible="virtio,pci-iommu",
    driver="virtio_iommu",
    stream_id_bits=32,
    translates=("virtio_iommu_translate_out",),
    commands=tuple(f"virtio_iommu_{name}" for name in ("attach", "detach", "map", "unmap")),
)

# The IOMMUs of QEMU's virt machine, by their names in machine files.
IOMMUS = {"smmuv3": SMMUV3, "virtio-iommu": VIRTIO_IOMMU}


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver that Linux can build as a module.

    ``option`` is its Kconfig option without CONFIG_. ``aliases`` are the module aliases by which
    udev loads it, from its compatible strings or device IDs."""

    module: str
    option: str
    aliases: tuple[str, ...]


DRIVERS = {
    driver.module: driver
    for driver in (
        Driver("arm_smmu_v3", "ARM_SMMU_V3", ("of:N*T*Carm,smmu-v3",)),
        # QEMU does not emulate this IOMMU, but a prebuilt kernel may have the driver.
        Driver(
            "arm_smmu",
            "ARM_SMMU",
            (
                *("of:N*T*Carm,smmu-v1", "of:N*T*Carm,smmu-v2", "of:N*T*Carm,mmu-400"),
                *("of:N*T*Carm,mmu-401", "of:N*T*Carm,mmu-500", "of:N*T*Ccavium,smmu-v2"),
            ),
        ),
        Driver("virtio_iommu", "VIRTIO_IOMMU", ("virtio:d00000017v*",)),
    )
}
