# SPDX-License-Identifier: GPL-2.0-only
"""The conclusion of a replay, from recorded steps and logs."""

from pathlib import Path

import pytest

from harness.klog.record import Record
from harness.repro import replay, request
from tests.unit.judging import KERNEL, step

WARNING = (
    "------------[ cut here ]------------",
    "WARNING: CPU: 0 PID: 9 at drivers/iommu/iommu.c:1 iommu_probe_device+0x10/0x20",
    "CPU: 0 PID: 9 Comm: modprobe Not tainted 6.12.117 #1",
    "Call trace:",
    " iommu_probe_device+0x10/0x20",
    " really_probe+0x10/0x20",
    "---[ end trace 0000000000000000 ]---",
)
REPORT = "# modprobe arm-smmu-v3\n# modprobe e1000e\n{}\n# rmmod e1000e\n"


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("boot", [(), WARNING])
def test_conclude_attributes_a_splat_to_the_step_that_logs_it(
    tmp_path: Path, number: int, boot: tuple[str, ...]
) -> None:
    """The report shows the splat in its second step. A splat during boot is not a symptom."""
    report = tmp_path / "report"
    stamped = "\n".join(f"[   12.000000] {line}" for line in WARNING)
    report.write_text(REPORT.format(stamped))
    result = replay.Result(request.create(report), KERNEL, tmp_path)
    replaying = replay._Replay(result, replay.Listener())
    lines = ["Booting Linux on physical CPU 0x0000000000", *boot]
    replaying._log += [Record(6, n, 0.1, text) for n, text in enumerate(lines)]
    replaying._booted = len(lines)
    result.steps += [step(kmsg=WARNING if each == number else ("quiet",)) for each in range(3)]
    replaying._log += [record for each in result.steps for record in each.kmsg]
    concluded = replaying.conclude()
    assert concluded.verdict.word == ("reproduced" if number <= 1 else "not-reproduced")
    assert len(concluded.splats) == (2 if boot else 1)
