# SPDX-License-Identifier: GPL-2.0-only
import re

import pytest

from harness.iommu import audit
from harness.klog.record import Record

PROBE_FAILURE = "arm-smmu-v3 9050000.smmuv3: probe with driver arm-smmu-v3 failed with error -12"


def log(*texts: str, level: int = 3) -> list[Record]:
    return [Record(level, number, 1.0, text) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    "text",
    [
        PROBE_FAILURE,
        "arm-smmu-v3 9050000.smmuv3: CMD_SYNC timeout at 0x00000000 [hwprod 0x1, hwcons 0x0]",
        "arm-smmu-v3 9050000.smmuv3: unexpected global error reported (0x00000001)",
        "arm-smmu-v3 9050000.smmuv3: EVTQ overflow detected -- events lost",
        "arm-smmu-v3 9050000.smmuv3: CMDQ error (cons 0x01000002): Illegal command",
        "virtio_iommu virtio1: could not add request: -28",
        "iommu: Failed to allocate default IOMMU domain of type 3",
        "vfio-pci 0000:00:01.0: probe with driver vfio-pci failed with error -22",
    ],
)
def test_errors_reports_each_error_of_an_iommu_driver_once(text: str) -> None:
    (found,) = audit.errors(log(text, text), [])
    assert (found.rule, found.text) == ("driver-error", text)
    assert audit.errors(log(text, level=4), []) == []
    assert audit.errors(log(text), ["other", re.escape(text[-12:])]) == []


@pytest.mark.parametrize(
    "text",
    [
        "e1000e 0000:00:01.0: probe with driver e1000e failed with error -12",
        "iommu_client b000000.client0: failed",
        "arm-smmu-v3 9050000.smmuv3: event 0x10 received:",
        "arm-smmu-v3 9050000.smmuv3: \t0x0000002900000010",
        "arm-smmu-v3 9050000.smmuv3: event: F_TRANSLATION client: 0000:00:05.1 sid: 0x29",
        'arm-smmu-v3 9050000.smmuv3: unpriv data read s1 "CD fetch" stag: 0x0',
        "virtio_iommu virtio1: page fault from EP 8 at 0x1000 [r]",
    ],
)
def test_errors_ignores_other_drivers_and_dma_faults(text: str) -> None:
    assert audit.errors(log(text), []) == []


def test_faults_reports_only_the_first_dma_fault() -> None:
    smmu = "arm-smmu-v3 9050000.smmuv3: event 0x10 received:"
    virtio = "virtio_iommu virtio1: page fault from EP 8 at 0x1000 [r]"
    assert [each.text for each in audit.faults(log("other", smmu, virtio))] == [smmu]
    assert [each.text for each in audit.faults(log(virtio))] == [virtio]
    assert audit.faults(log("event 0x10 received:")) == []
