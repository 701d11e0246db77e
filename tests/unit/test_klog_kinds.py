# SPDX-License-Identifier: GPL-2.0-only
"""Every kind of splat, in the wording of the kernels that print it."""

import pytest

from harness.klog import kinds, splat
from harness.klog.block import NEEDLES, opens
from tests.unit.crashlog import read

CPU = "CPU: 1 PID: 71 Comm: sh Not tainted 6.12.117 #1"


def trace(*functions: str) -> list[str]:
    return [CPU, "Call trace:", *(f" {each}+0x10/0x200" for each in functions)]


TRACE = trace("dump_stack_lvl", "viommu_probe", "virtio_dev_probe", "really_probe")

OPENINGS = [
    # WARNING, from 4.x to 7.x
    ("WARNING: CPU: 0 PID: 1 at drivers/iommu/iommu.c:9 f+0x1/0x2", "WARNING", "f"),
    ("WARNING: CPU: 0 PID: 1 at ../drivers/iommu/iommu.c:9 f+0x1/0x2 [m]", "WARNING", "f"),
    ("WARNING: CPU: 0 PID: 1 at f+0x1/0x2", "WARNING", "f"),
    ("WARNING: at drivers/iommu/iommu.c:9 f+0x1/0x2()", "WARNING", "f"),
    ("WARNING: drivers/iommu/iommu.c:9 at f+0x1/0x2, CPU#1: sh/71", "WARNING", "f"),
    ("WARNING: drivers/iommu/iommu.c:9 at 0x0, CPU#1: sh/71", "WARNING", None),
    ("WARNING: CPU: 0 PID: 1 at rust/kernel/x.rs:9 f+0x1/0x2", "WARNING", "f"),
    ("kernel BUG at drivers/vfio/vfio.c:698!", "BUG", "viommu_probe"),
    ("rust_kernel: panicked at rust/kernel/x.rs:9:5:", "Rust panic", "viommu_probe"),
    # oopses: arm64, arm, x86, riscv, powerpc
    ("Unable to handle kernel NULL pointer dereference at virtual address 0008", "Oops", None),
    ("Unable to handle kernel paging request at virtual address dead000000000100", "Oops", None),
    ("Unable to handle kernel read from unreadable memory at virtual address 0", "Oops", None),
    ("Unable to handle kernel write to read-only memory at virtual address ff", "Oops", None),
    ("Unable to handle kernel execute from non-executable memory at virtual", "Oops", None),
    ("Unable to handle kernel access to user memory outside uaccess routines at", "Oops", None),
    ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "Oops", None),
    ("BUG: unable to handle page fault for address: ffffc90000000000", "Oops", None),
    ("BUG: unable to handle kernel paging request at ffff88002bde1e40", "Oops", None),
    ("BUG: unable to handle kernel NULL pointer dereference at (null)", "Oops", None),
    ("general protection fault: 0000 [#1] SMP", "Oops", None),
    (
        "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
        "Oops",
        None,
    ),
    (
        "Oops: general protection fault, probably for non-canonical address 0xd: 0000 [#1] SMP",
        "Oops",
        None,
    ),
    ("segment-related general protection fault: 0010 [#1] SMP", "Oops", None),
    ("divide error: 0000 [#1] PREEMPT SMP", "Oops", None),
    ("Oops: divide error: 0000 [#1] SMP", "Oops", None),
    ("invalid opcode: 0000 [#1] SMP", "Oops", None),
    ("stack segment: 0000 [#1] SMP", "Oops", None),
    ("traps: PANIC: double fault, error_code: 0x0", "Oops", None),
    ("BUG: stack guard page was hit at 00000000 (stack is 0..1)", "Oops", None),
    ("IPv6: BUG: Address fc00:: on device lo is missing its host route.", "BUG", None),
    ("BUG: TASK stack guard page was hit at 00000000 (stack is 0..1)", "Oops", None),
    ("Insufficient stack space to handle exception!", "Oops", None),
    ("Internal error: Oops: 96000004 [#1] SMP", "Oops", None),
    ("Internal error: Oops - BUG: 0 [#1] SMP", "Oops", None),
    ("Internal error: Oops - Undefined instruction: 0000000002000000 [#1] SMP", "Oops", None),
    ("Internal error: Oops - BTI: 0000000036000002 [#1] SMP", "Oops", None),
    ("Internal error: Oops - FPAC: 0000000072000000 [#1] SMP", "Oops", None),
    ("Internal error: SP/PC alignment exception: 8a000000 [#1] SMP", "Oops", None),
    ("Internal error: synchronous external abort: 96000010 [#1] SMP", "Oops", None),
    ("SError Interrupt on CPU0, code 0x00000000bf000002 -- SError", "Oops", None),
    ("Unhandled fault: imprecise external abort (0x1406) at 0xb6f1a000", "Oops", None),
    ("Oops [#1]", "Oops", None),
    ("Oops: Kernel access of bad area, sig: 11 [#1]", "Oops", None),
    # sanitizers
    ("BUG: KASAN: slab-use-after-free in f+0x1/0x2", "KASAN", "f"),
    ("BUG: KASAN: use-after-free in f+0x1/0x2 at addr ffff8880", "KASAN", "f"),
    ("BUG: KASAN: use-after-free on address ffff8800b7eb57d4", "KASAN", None),
    ("BUG: KASAN: double-free or invalid-free in kfree+0x1/0x2", "KASAN", None),
    ("BUG: KASAN: invalid-free in kfree+0x1/0x2", "KASAN", None),
    ("BUG: KASAN: double-free in kfree+0x1/0x2", "KASAN", None),
    ("BUG: KASAN: null-ptr-deref in f+0x1/0x2", "KASAN", "f"),
    ("BUG: KASAN: null-ptr-deref Read in f+0x1/0x2", "KASAN", "f"),
    ("BUG: KASAN: wild-memory-access in f+0x1/0x2", "KASAN", "f"),
    ("BUG: KASAN: global-out-of-bounds in f+0x1/0x2", "KASAN", "f"),
    ("BUG: KASAN: stack-out-of-bounds in f+0x1/0x2", "KASAN", "f"),
    ("BUG: KASAN: vmalloc-out-of-bounds in f+0x1/0x2", "KASAN", "f"),
    ("BUG: KFENCE: use-after-free read in f+0x1/0x2", "KFENCE", "f"),
    ("BUG: KFENCE: memory corruption in f+0x1/0x2", "KFENCE", "f"),
    ("BUG: KFENCE: invalid free in kfree+0x1/0x2", "KFENCE", None),
    ("BUG: KCSAN: data-race in f / g", "KCSAN", "f"),
    ("BUG: KMSAN: uninit-value in f+0x1/0x2", "KMSAN", "f"),
    ("BUG: KMSAN: kernel-infoleak in instrument_copy_to_user+0x1/0x2", "KMSAN", None),
    ("UBSAN: array-index-out-of-bounds in drivers/iommu/iommu.c:10:5", "UBSAN", None),
    ("UBSAN: Undefined behaviour in ../drivers/iommu/iommu.c:10:5", "UBSAN", None),
    ("UBSAN: shift-out-of-bounds in drivers/iommu/iommu.c:10:5", "UBSAN", None),
    ("unreferenced object 0xffff000003321300 (size 64):", "kmemleak", None),
    ("unreferenced object ", "kmemleak", None),
    ("BUG: memory leak", "kmemleak", None),
    # lockdep
    ("WARNING: possible circular locking dependency detected", "lockdep", None),
    ("[ INFO: possible circular locking dependency detected ]", "lockdep", None),
    ("WARNING: possible recursive locking detected", "lockdep", None),
    ("WARNING: possible irq lock inversion dependency detected", "lockdep", None),
    ("WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected", "lockdep", None),
    ("WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected", "lockdep", None),
    ("WARNING: inconsistent lock state", "lockdep", None),
    ("WARNING: bad unlock balance detected!", "lockdep", None),
    ("[ BUG: bad unlock balance detected! ]", "lockdep", None),
    ("WARNING: held lock freed!", "lockdep", None),
    ("WARNING: lock held when returning to user space!", "lockdep", None),
    ("WARNING: sh/71 still has locks held!", "lockdep", None),
    ("WARNING: suspicious RCU usage", "lockdep", None),
    ("[ INFO: suspicious RCU usage. ]", "lockdep", None),
    ("[ BUG: Invalid wait context ]", "lockdep", None),
    ("WARNING: Nested lock was not taken", "lockdep", None),
    ("INFO: trying to register non-static key.", "lockdep", None),
    ("BUG: MAX_LOCKDEP_CHAINS too low!", "lockdep", None),
    ("BUG: MAX_LOCK_DEPTH too low!", "lockdep", None),
    # sleeping, preemption and spinlocks
    ("BUG: sleeping function called from invalid context at mm/x.c:1", "atomic sleep", None),
    ("BUG: scheduling while atomic: sh/71/0x00000002", "atomic sleep", None),
    ("BUG: using smp_processor_id() in preemptible [00000000] code: sh/71", "preemptible", None),
    ("BUG: spinlock bad magic on CPU#0, sh/71", "spinlock", None),
    ("BUG: spinlock lockup suspected on CPU#0, sh/71", "spinlock", None),
    # hangs
    ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:71]", "soft lockup", None),
    ("NMI watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:71]", "soft lockup", None),
    ("BUG: soft lockup - CPU#0 stuck for 22s! [sh:71]", "soft lockup", None),
    ("watchdog: Watchdog detected hard LOCKUP on cpu 1", "hard lockup", None),
    ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 1", "hard lockup", None),
    ("INFO: rcu_sched self-detected stall on CPU", "RCU stall", None),
    ("INFO: rcu_sched detected stalls on CPUs/tasks:", "RCU stall", None),
    ("rcu: INFO: rcu_preempt self-detected stall on CPU", "RCU stall", None),
    ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "RCU stall", None),
    ("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: {", "RCU stall", None),
    ("rcu: rcu_preempt kthread starved for 5002 jiffies!", "RCU stall", None),
    ("INFO: task rmmod:33 blocked for more than 15 seconds.", "hung task", None),
    ("INFO: task rmmod:33 blocked in I/O wait for more than 15 seconds.", "hung task", None),
    ("INFO: task rmmod:33 can't die for more than 15 seconds.", "hung task", None),
    ("INFO: task two", "hung task", None),
    # reference counts, lists, slab caches, names
    ("refcount_t: underflow; use-after-free.", "refcount_t", None),
    ("refcount_t: saturated; leaking memory.", "refcount_t", None),
    ("refcount_t: addition on 0; use-after-free.", "refcount_t", None),
    ("refcount_t: decrement hit 0; leaking memory.", "refcount_t", None),
    ("list_add corruption. prev->next should be next (a), but was b.", "list corruption", None),
    ("list_del corruption, a->next is LIST_POISON1 (dead)", "list corruption", None),
    ("BUG kmalloc-64 (Not tainted): Poison overwritten", "SLUB", None),
    ("BUG kmalloc-64 (Tainted: G    B  ): Right Redzone overwritten", "SLUB", None),
    ("BUG iommu_iova (Tainted: G  W): Objects remaining in iommu_iova", "SLUB", None),
    ("BUG kmalloc-8: Object already free", "SLUB", None),
    ("BUG: Bad page state in process sh  pfn:12345", "bad page", None),
    ("usercopy: Kernel memory exposure attempt detected from SLUB object", "usercopy", None),
    ("sysfs: cannot create duplicate filename '/class/iommu/smmu3'", "sysfs", None),
    ("proc_dir_entry 'driver/x' already registered", "sysfs", None),
    ("ODEBUG: free active (active state 0) object type: timer_list hint: f", "ODEBUG", None),
    ("DMA-API: e1000e 0000:00:05.0: device driver frees DMA memory with", "DMA-API", None),
    ("e1000e 0000:00:05.0: DMA-API: device driver tries to free DMA memory", "DMA-API", None),
    ("vc4 soc:gpu: DMA-API: cpu touching an active dma mapped cacheline", "DMA-API", None),
    ("Device 'x' does not have a release() function, it is broken", "device release", None),
    ("CFI failure at f+0x1/0x2 (target: g+0x0/0x4; expected type: 0x1)", "CFI", "f"),
]


@pytest.mark.parametrize(("opening", "kind", "function"), OPENINGS)
def test_find_returns_the_kind_and_function_of_a_splat(
    opening: str, kind: str, function: str | None
) -> None:
    (found,) = splat.find(["harmless: line", opening, *TRACE, "---[ end trace 0000 ]---"])
    assert (found.kind, found.function) == (kind, function or "viommu_probe")
    assert f" in {found.function}" in found.title
    assert (found.kernel, found.first) == ("6.12.117", 1)


ONE_LINE = [
    ("arm-smmu-v3 9050000.smmuv3: event 0x10 received:", "iommu fault"),
    (
        "arm-smmu-v3 9050000.smmuv3: event: F_TRANSLATION client: 0000:00:05.0 sid: 0x28",
        "iommu fault",
    ),
    ("arm-smmu-v3 9050000.smmuv3: CMD_SYNC timeout at 0x00000012 [hwprod 1]", "iommu error"),
    ("arm-smmu-v3 9050000.smmuv3: unexpected global error reported (0x00000001)", "iommu error"),
    ("arm-smmu-v3 9050000.smmuv3: EVTQ overflow detected -- events lost", "iommu error"),
    ("arm-smmu-v3 9050000.smmuv3: CMDQ error (cons 0x01000004): Illegal command", "iommu error"),
    ("arm-smmu 5040000.iommu: Unhandled context fault: fsr=0x402, iova=0x0", "iommu fault"),
    ("arm-smmu 5040000.iommu: Unexpected global fault, this could be serious", "iommu error"),
    ("virtio_iommu virtio0: page fault from EP 8 at 0x1000 [R]", "iommu fault"),
    ("DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0x0", "iommu fault"),
    ("AMD-Vi: Event logged [IO_PAGE_FAULT device=00:14.0 address=0x0]", "iommu fault"),
    ("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", "kmemleak"),
    ("unregister_netdevice: waiting for eth0 to become free. Usage count = 2", "unregister wait"),
    ("VFS: Close: file count is 0", "file count"),
    ("WARNING: kernel stack regs at ffff8800 in sh:71 has bad 'bp' value 0", "unwinder"),
    ("VFS: Busy inodes after unmount of vda. Self-destruct in 5 seconds.", "busy inodes"),
]


@pytest.mark.parametrize(("line", "kind"), ONE_LINE)
def test_a_one_line_splat_does_not_split_another_splat(line: str, kind: str) -> None:
    warning = "WARNING: CPU: 0 PID: 1 at drivers/iommu/iommu.c:9 f+0x1/0x2"
    found = splat.find([warning, CPU, line, *TRACE[1:], "---[ end trace 0000 ]---"])
    assert [each.kind for each in found] == ["WARNING", kind]
    assert found[1].first == found[1].last == 2
    assert found[0].frames == ("viommu_probe", "virtio_dev_probe", "really_probe")


ORDINARY = """\
WARNING: modpost: vmlinux.o: section mismatch
Warning: unable to open an initial console.
debug: x
x86/bugs: none
bugs: none
e1000e: Intel(R) PRO/1000
Kernel command line: console=ttyAMA0 panic=-1 oops=panic
rcu: Preemptible hierarchical RCU implementation.
rcu: \tRCU event tracing is enabled.
RCU Tasks: Setting shift to 1 and lim to 1 rcu_task_cb_adjust=1.
kasan: KernelAddressSanitizer initialized (generic)
kfence: initialized - using 2097152 bytes for 255 objects
Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar
... MAX_LOCKDEP_SUBCLASSES:  8
kmemleak: Kernel memory leak detector initialized (mem pool available: 15744)
Modules linked in: arm_smmu_v3
watchdog: Delayed init of the lockup detector failed
NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.
FAULT_INJECTION: forcing a failure.
name failslab, interval 1, probability 100, space 0, times 1
arm-smmu-v3 9050000.smmuv3: option mask 0x0
arm-smmu-v3 9050000.smmuv3: allocated 65536 entries for evtq
DMAR: Host address width 46
DMAR: DRHD base: 0x000000fed90000 flags: 0x1
AMD-Vi: Interrupt remapping enabled
iommu: Default domain type: Translated
# echo BUG > /dev/kmsg
I see WARNING: CPU: 0 PID: 1 at x.c:1 in my log
BUG kmalloc-64 (Not tainted): kasan: bad access detected
e1000e 0000:00:05.0 eth0: Detected Hardware Unit Hang
""".splitlines()


@pytest.mark.parametrize("line", ORDINARY)
def test_find_ignores_ordinary_messages(line: str) -> None:
    assert splat.find([line, "and the next"]) == []


@pytest.mark.parametrize(("opening", "kind", "function"), OPENINGS)
def test_every_opening_contains_a_needle(opening: str, kind: str, function: str | None) -> None:
    """A log is searched for needles before it is parsed."""
    del kind, function
    assert any(needle in opening for needle in NEEDLES)
    assert opens(opening)


def test_every_kind_has_an_opening_in_this_file() -> None:
    lines = [opening for opening, _, _ in OPENINGS] + [line for line, _ in ONE_LINE]
    names = {found[0].name for line in lines if (found := opens(line))}
    rest = {kind.name for kind in kinds.KINDS} - names
    assert rest == set(OTHER_KINDS)


# Kinds with a separate test, below.
OTHER_KINDS = {
    "panic": "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
    "workqueue lockup": "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 9s!",
    "workqueue leak": "BUG: workqueue leaked lock or atomic: kworker/0:0/0x00000000/4",
    "page allocation": "sh: page allocation failure: order:4, mode:0xcc0(GFP_KERNEL)",
    "out of memory": "Out of memory: Killed process 71 (sh) total-vm:1000kB",
    "busy dentry": "BUG: Dentry ffff88810e2ca880{i=0,n=x}  still in use (1) [unmount of ext4 vda]",
    "machine check": "mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 5: be00",
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_find_recognises_a_kind_by_its_opening_line_alone(kind: str) -> None:
    assert [each.kind for each in splat.find(["x", OTHER_KINDS[kind], "y"])] == [kind]


@pytest.mark.parametrize(
    ("opening", "title"),
    [
        (
            "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
            "kernel panic: Attempted to kill init",
        ),
        (
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
            "kernel panic: VFS: Unable to mount root fs on unknown-block",
        ),
        ("BUG: KASAN: slab-use-after-free in f+0x1/0x2", "KASAN: slab-use-after-free in f"),
        ("WARNING: CPU: 3 PID: 4711 at a.c:9 f.isra.0+0x1/0x2 [m]", "WARNING in f"),
        ("BUG kmalloc-64 (Not tainted): Poison overwritten", "kmalloc-64: Poison overwritten"),
        ("watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [sh:71]", "soft lockup"),
        (
            "Unable to handle kernel NULL pointer dereference at virtual address 0008",
            "NULL pointer dereference",
        ),
    ],
)
def test_the_title_contains_nothing_that_changes_between_runs(opening: str, title: str) -> None:
    (found,) = splat.find([opening])
    assert found.title == title


def test_the_severity_depends_on_the_kind() -> None:
    severities = {kind.name: kind.severity for kind in kinds.KINDS}
    assert severities["Oops"] == severities["panic"] == "fatal"
    assert severities["WARNING"] == severities["lockdep"] == "serious"
    assert severities["iommu fault"] == severities["out of memory"] == "notice"


def test_the_title_of_a_data_race_contains_both_functions() -> None:
    found = read(
        "BUG: KCSAN: data-race in drain_queue / feed_queue",
        "write to 0xffff0000c0a81f40 of 4 bytes by task 71 on cpu 0:",
        *trace("drain_queue", "drain_work")[2:],
        "read to 0xffff0000c0a81f40 of 4 bytes by task 72 on cpu 1:",
        *trace("feed_queue", "feed_store")[2:],
        "Reported by Kernel Concurrency Sanitizer on:",
        CPU,
    )
    assert found.title == "KCSAN: data-race in drain_queue / feed_queue"
    assert (found.function, [each.name for each in found.chains]) == ("drain_queue", ["access"] * 2)


@pytest.mark.parametrize("rest", ["ffe7087450a17000", "          (null)"])
def test_the_title_of_a_kasan_report_does_not_contain_the_address(rest: str) -> None:
    found = read(f"BUG: KASAN: wild-memory-access on address {rest}", *TRACE)
    assert found.title == "KASAN: wild-memory-access in viommu_probe"


def test_an_early_kasan_report_blames_the_function_in_its_first_line() -> None:
    opening = "BUG: KASan: use after free in feed_free+0x2c9/0x340 [feed] at addr ffff880d59947040"
    found = read(opening, "Read of size 8 by task sh/71", *TRACE)
    assert (found.kind, found.function) == ("KASAN", "feed_free")


def test_a_rust_panic_and_its_bug_are_one_splat() -> None:
    found = read(
        "rust_kernel: panicked at drivers/feed/feed.rs:60:5:",
        "attempt to add with overflow",
        "------------[ cut here ]------------",
        "kernel BUG at rust/helpers/bug.c:7!",
        "Internal error: Oops - BUG: 00000000f2000800 [#1] SMP",
        *trace("rust_helper_BUG", "_RNvCs1a_7___rustc17rust_begin_unwind"),
        *trace("_RNvNtCs2b_4core9panicking9panic_fmt")[2:],
        *trace("_RNvXs_Cs3c_4feedNtB4_4FeedNtNtCs4d_6kernel4misc4Misc4mmap", "mmap_region")[2:],
        "---[ end trace 0000000000000000 ]---",
    )
    assert (found.kind, found.file, found.line) == ("Rust panic", "drivers/feed/feed.rs", 60)
    assert found.function == "<feed::Feed as kernel::misc::Misc>::mmap"


def test_a_hard_lockup_and_its_warning_are_one_splat() -> None:
    found = read(
        "Watchdog detected hard LOCKUP on cpu 5",
        "------------[ cut here ]------------",
        "WARNING: at kernel/watchdog.c:352",
        *trace("watchdog_overflow_callback", "feed_spin", "feed_store", "vfs_write"),
    )
    assert (found.kind, found.cpu, found.function) == ("hard lockup", 5, "feed_store")
