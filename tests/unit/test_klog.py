# SPDX-License-Identifier: GPL-2.0-only
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.klog import record, splat


def test_parse_reads_a_record() -> None:
    data = b"4,1207,5140900,-;NET: Registered\\x20\\xc3\\xa4\n SUBSYSTEM=net\n DEVICE=+x\n"
    assert record.parse(data) == record.Record(4, 1207, 5.1409, "NET: Registered ä")


def test_parse_separates_the_facility_from_the_level() -> None:
    found = record.parse(b"12,3,1,-,caller=T1;from user space")
    assert found
    assert found.level == 4


@given(st.binary(max_size=500))
def test_parsing_hostile_bytes_returns_a_record_or_none(data: bytes) -> None:
    found = record.parse(data)
    assert found is None or 0 <= found.level <= 7


def test_gaps_returns_the_missing_sequence_numbers() -> None:
    records = [record.Record(6, number, 0.0, "") for number in (1, 2, 5, 6, 9)]
    assert record.gaps(records) == [(3, 4), (7, 8)]


WARNING = """\
------------[ cut here ]------------
WARNING: CPU: 0 PID: 71 at drivers/iommu/iommu.c:940 iommu_group_release+0x38/0x60
Modules linked in: arm_smmu_v3
CPU: 0 UID: 0 PID: 71 Comm: sh Not tainted 6.12.117 #1
Hardware name: linux,dummy-virt (DT)
pc : iommu_group_release+0x38/0x60
lr : kobject_put+0x78/0x120
Call trace:
 iommu_group_release+0x38/0x60
 kobject_put+0x78/0x120
 iommu_group_remove_device+0x90/0xd0 [iommu_client]
---[ end trace 0000000000000000 ]---
something else""".splitlines()


@pytest.mark.parametrize("function", ["arm_smmu_remove", "bus_for_each_dev", "feed_0", "a"])
def test_find_keeps_the_whole_name_of_a_frame(function: str) -> None:
    text = f"""WARNING: CPU: 0 PID: 1 at x.c:1 x+0x1/0x2
Call trace:
 {function}+0x1/0x2
 [<c03c42ac>] {function}+0x1/0x2"""
    (found,) = splat.find(text.splitlines())
    assert found.frames == (function, function)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("BUG kmalloc-64 (Not tainted): Poison overwritten", "SLUB"),
        ("BUG iommu_iova (Tainted: G  W): Objects remaining in iommu_iova", "SLUB"),
        ("sysfs: cannot create duplicate filename '/class/iommu/smmu3'", "sysfs"),
        ("BUG: scheduling while atomic: sh/31/0x2", "atomic sleep"),
        ("INFO: task rmmod:33 blocked for more than 15 seconds.", "hung task"),
    ],
)
def test_find_recognises_splats_of_slub_sysfs_and_the_scheduler(line: str, kind: str) -> None:
    (found,) = splat.find([line, "Call trace:", " sysfs_warn_dup+0x60/0x80"])
    assert (found.kind, found.frames) == (kind, ("sysfs_warn_dup",))


def test_find_parses_a_warning() -> None:
    (found,) = splat.find(WARNING)
    assert (found.kind, found.file, found.line) == ("WARNING", "drivers/iommu/iommu.c", 940)
    assert found.function == "iommu_group_release"
    assert found.kernel == "6.12.117"
    assert found.frames[-1] == "iommu_group_remove_device"
    assert found.text[-1].startswith("---[ end trace")


def test_the_title_does_not_contain_cpu_and_pid() -> None:
    other = [line.replace("CPU: 0 PID: 71", "CPU: 3 PID: 4711") for line in WARNING]
    assert splat.find(other)[0].title == splat.find(WARNING)[0].title


def test_find_parses_a_warning_with_the_source_line_before_the_function() -> None:
    (found,) = splat.find(
        ["WARNING: drivers/iommu/iommu.c:654 at __iommu_probe_device+0x1/0x2, CPU#0"]
    )
    assert (found.file, found.line, found.function) == (
        "drivers/iommu/iommu.c",
        654,
        "__iommu_probe_device",
    )


OOPS = """\
Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008
Mem abort info:
  ESR = 0x0000000096000004
Internal error: Oops: 0000000096000004 [#1] SMP
CPU: 0 UID: 0 PID: 60 Comm: sh Tainted: G           O       6.12.117 #1
pc : sysfs_remove_link_from_group+0x20/0x80
lr : iommu_device_unlink+0x40/0x70
Call trace:
 sysfs_remove_link_from_group+0x20/0x80
 iommu_device_unlink+0x40/0x70
---[ end trace 0000000000000000 ]---""".splitlines()


CIRCULAR_LOCKING = """\
WARNING: possible circular locking dependency detected
6.12.117 #1 Not tainted
------------------------------------------------------
irq/19-pciehp/34 is trying to acquire lock:
ffff000003321300 (&ctrl->reset_lock){.+.+}-{3:3}, at: pciehp_configure_device+0xc4/0x174
stack backtrace:
CPU: 0 UID: 0 PID: 34 Comm: irq/19-pciehp Not tainted 6.12.117 #1
Call trace:
 dump_backtrace+0xa0/0x128
 show_stack+0x20/0x38
 dump_stack_lvl+0x90/0xd0
 dump_stack+0x18/0x28
 print_circular_bug+0x288/0x370
 check_noncircular+0x16c/0x188
 __lock_acquire+0x1354/0x1f4c
 lock_acquire+0x104/0x2c0
 down_read_nested+0x54/0x1c0
 pciehp_configure_device+0xc4/0x174
 pciehp_ist+0x178/0x17c
"""


def test_find_blames_the_function_that_takes_the_lock_in_a_lockdep_report() -> None:
    """The functions that print the report are the same in all lockdep reports, and are skipped."""
    (found,) = splat.find(CIRCULAR_LOCKING.splitlines())
    assert (found.function, found.caller) == ("pciehp_configure_device", "pciehp_ist")
    assert found.frames == ("down_read_nested", "pciehp_configure_device", "pciehp_ist")


def test_find_parses_an_oops_as_one_splat() -> None:
    (found,) = splat.find(OOPS)
    assert (found.kind, found.function) == ("Oops", "sysfs_remove_link_from_group")
    assert found.kernel == "6.12.117"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("kernel BUG at drivers/vfio/vfio.c:698!", "BUG"),
        ("BUG: KASAN: slab-use-after-free in iommu_deinit_device+0x10/0x20", "KASAN"),
        ("WARNING: possible circular locking dependency detected", "lockdep"),
        (
            "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:1",
            "atomic sleep",
        ),
        ("INFO: task modprobe:60 blocked for more than 120 seconds.", "hung task"),
        ("rcu: INFO: rcu_sched self-detected stall on CPU", "RCU stall"),
        ("UBSAN: array-index-out-of-bounds in drivers/iommu/iommu.c:10:5", "UBSAN"),
        ("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", "kmemleak"),
        ("Kernel panic - not syncing: Attempted to kill init!", "panic"),
    ],
)
def test_find_recognises_a_splat_of_one_line(line: str, kind: str) -> None:
    assert [found.kind for found in splat.find(["fine", line, "more"])] == [kind]
