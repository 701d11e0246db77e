# SPDX-License-Identifier: GPL-2.0-only
"""Virtual machines as data. QEMU's command line and the device tree are both
derived from one ``Machine``, so they cannot disagree.
"""

from dataclasses import dataclass

from harness.errors import UsageError


@dataclass(frozen=True, slots=True)
class Iommu:
    """An IOMMU that QEMU emulates: the ``-M virt`` option or the device that
    brings it, its device-tree ``compatible``, the module of its ``driver``, and the
    width of its stream IDs in bits (SMMU_IDR1.SIDSIZE, which QEMU fixes at 16;
    endpoint IDs of virtio-iommu are 32 bits wide)."""

    machine_option: str
    device: str
    compatible: str
    driver: str
    stream_id_bits: int


SMMUV3 = Iommu("iommu=smmuv3", "", "arm,smmu-v3", "arm_smmu_v3", 16)
VIRTIO_IOMMU = Iommu("", "virtio-iommu-pci", "virtio,pci-iommu", "virtio_iommu", 32)


@dataclass(frozen=True, slots=True)
class Machine:
    """One virtual machine. ``nics`` are PCI network devices behind the IOMMU,
    ``overlays`` files of ``dts/``; ``memory`` is in MiB. ``single_console``
    puts commands on the kernel's own console, for kernels without a built-in
    virtio console."""

    name: str
    iommu: Iommu
    nics: tuple[str, ...] = ("e1000e",)
    overlays: tuple[str, ...] = ()
    memory: int = 256
    single_console: bool = False

    @property
    def options(self) -> str:
        """What follows ``-M``. GICv3, because the SMMU's MSIs need its ITS."""
        parts = ("virt", "gic-version=3", "dtb-randomness=off", self.iommu.machine_option)
        return ",".join(part for part in parts if part)

    @property
    def devices(self) -> list[str]:
        """QEMU arguments of what is behind the IOMMU, and of the IOMMU itself.

        User network, restricted: a guest reaches nothing of this host. No boot
        ROMs: nothing boots from these devices.
        """
        argv = ["-device", self.iommu.device] if self.iommu.device else []
        for number, model in enumerate(self.nics):
            argv += ["-netdev", f"user,id=net{number},restrict=on"]
            argv += ["-device", f"{model},netdev=net{number},romfile="]
        return argv


MACHINES = {
    machine.name: machine
    for machine in (
        Machine("smmuv3", SMMUV3, overlays=("platform-clients",)),
        Machine("virtio-iommu", VIRTIO_IOMMU),
    )
}


def named(name: str) -> Machine:
    """Raises UsageError for a machine that does not exist."""
    try:
        return MACHINES[name]
    except KeyError:
        raise UsageError(f"no such machine: {name!r}", f"use {' or '.join(MACHINES)}") from None
