# SPDX-License-Identifier: GPL-2.0-only
"""Which function a splat blames if its trace begins with helpers."""

import pytest

from harness.klog import machinery, splat
from tests.unit.crashlog import CPU, END, OOPS, read, trace


@pytest.mark.parametrize(
    ("pc", "lr", "frames", "function", "caller"),
    [
        # A leaf function has no frame; only the link register contains its caller.
        ("iommu_get_dma_domain", "iommu_dma_map_page", ("iommu_get_dma_domain", "dma_map"), 0, 1),
        # After a call the link register points into the function itself.
        ("viommu_probe", "viommu_probe", ("viommu_probe", "really_probe"), 0, "really_probe"),
        # A helper's caller is blamed instead of the helper.
        ("__pi_memcpy", "feed_one", ("__pi_memcpy", "feed_all"), 1, "feed_all"),
        (
            "mutex_lock",
            "mutex_lock",
            ("mutex_lock", "feed_one", "feed_all"),
            "feed_one",
            "feed_all",
        ),
    ],
)
def test_an_oops_blames_the_innermost_function_that_is_not_a_helper(
    pc: str, lr: str, frames: tuple[str, ...], function: str | int, caller: str | int
) -> None:
    registers = [f"pc : {pc}+0x10/0x20", f"lr : {lr}+0x8/0x20"]
    found = read(OOPS, CPU, *registers, *trace(*frames), END)
    named = (pc, lr)
    expected = [each if isinstance(each, str) else named[each] for each in (function, caller)]
    assert [found.function, found.caller] == expected


def test_a_jump_to_an_invalid_address_blames_the_function_that_jumps() -> None:
    registers = ["pc : 0x0", "lr : fq_flush_iotlb+0x20/0x40"]
    found = read(OOPS, CPU, *registers, *trace("fq_flush_timeout", "call_timer_fn"), END)
    assert (found.function, found.caller) == ("fq_flush_iotlb", "fq_flush_timeout")
    data = "Unable to handle kernel execute from non-executable memory at virtual address ff"
    found = read(data, CPU, "pc : table+0x0/0x40", "lr : jump+0x8/0x9", *trace("caller_of_it"), END)
    assert found.function == "jump"


def test_a_warning_without_register_symbols_blames_the_function_in_its_first_line() -> None:
    found = read(
        "WARNING: CPU: 1 PID: 71 at arch/riscv/mm/physaddr.c:16 feed_one+0x44/0x5c",
        "epc: ffffffe000207654 ra : ffffffe000207654 sp : ffffffe00b777cd0",
        *trace("walk_stackframe", "panic", "do_trap_break"),
    )
    assert found.function == "feed_one"


def test_a_jump_in_an_interrupt_does_not_blame_the_interrupted_function() -> None:
    registers = ["RIP: 0010:0xffffffffffffffff", "Call Trace:", " <IRQ>"]
    timer = trace("feed_timers", "irq_exit", "apic_timer_interrupt")[1:]
    found = read(OOPS, CPU, *registers, *timer, "RIP: 0010:drink+0x1/0x2", " </IRQ>", END)
    assert (found.function, found.pc) == ("feed_timers", None)


def test_a_bad_page_report_blames_the_owner_of_the_page() -> None:
    opening = "BUG: Bad page state in process sh  pfn:ab652"
    allocated = (
        "page last allocated via order 0, migratetype Unmovable, gfp_mask 0x2820, pid 7, ts 1"
    )
    owner = [allocated, *trace("post_alloc_hook", "pagecache_get_page", "make_it")[1:]]
    freed = ["page last free pid 8 tgid 8 stack trace:", *trace("free_unref_page", "drop_it")[1:]]
    own = [CPU, *trace("dump_stack", "bad_page", "free_unref_page", "feed_one")]
    found = read(opening, *owner, *freed, *own)
    assert [each.name for each in found.chains] == ["allocation", "free", "call trace"]
    assert found.function == "make_it"
    # Without page_owner, the function that frees the page.
    assert read(opening, *own).function == "feed_one"


def test_a_cut_here_line_does_not_separate_a_message_from_its_warning_or_bug() -> None:
    text = "refcount_t: underflow; use-after-free."
    place = "WARNING: CPU: 1 PID: 71 at lib/refcount.c:186 refcount_sub_and_test+0x1/0x2"
    cut = "------------[ cut here ]------------"
    found = read(text, cut, place, CPU, *trace("refcount_sub_and_test", "feed_one"), END)
    assert (found.kind, found.function, found.file) == ("refcount_t", "feed_one", "lib/refcount.c")
    text, place = "list_del corruption. next->prev is wrong", "kernel BUG at lib/list_debug.c:56!"
    found = read(text, cut, place, CPU, *trace("__list_del_entry_valid", "feed_one"), END)
    assert (found.kind, found.function) == ("list corruption", "feed_one")
    assert (found.file, found.line) == ("lib/list_debug.c", 56)


@pytest.mark.parametrize(
    ("frames", "function"),
    [
        # A system call or a work item can contain a second dispatcher.
        (("lookup_one", "really_probe", "__arm64_sys_write", "el0_svc", "el0t_64_sync"), 2),
        (("shrink_one", "shrink_node", "feed_work", "process_one_work", "worker_thread"), 2),
    ],
)
def test_a_corrupted_stack_end_blames_the_dispatched_function(
    frames: tuple[str, ...], function: int
) -> None:
    panic = "Kernel panic - not syncing: corrupted stack end detected inside scheduler"
    head = ("dump_stack", "panic", "__schedule", "_cond_resched")
    found = read(panic, CPU, *trace(*head, *frames))
    assert (found.kind, found.function) == ("panic", machinery.named(frames[function]))


def test_a_workqueue_leak_blames_the_first_of_two_last_functions() -> None:
    opening = "BUG: workqueue leaked lock or atomic: kworker/0:1/0x00000000/353"
    lines = ("     last function: feed_work", CPU, *trace("dump_stack", "process_one_work"))
    assert read(opening, *lines, "     last function: other_work").function == "feed_work"


def test_a_trace_of_only_machinery_does_not_blame_the_reporting_functions() -> None:
    opening = "BUG: using smp_processor_id() in preemptible [00000000] code: sh/71"
    found = read(opening, CPU, *trace("dump_stack", "check_preemption_disabled"))
    assert found.function == "check_preemption_disabled"
    frames = ("__sanitizer_cov_trace_pc", "trace_hardirqs_off", "el1_abort")
    assert read(OOPS, CPU, *trace(*frames)).function == "el1_abort"


def test_a_lockdep_report_without_a_trace_blames_the_function_at_the_lock() -> None:
    found = read(
        "WARNING: Nested lock was not taken",
        "sh/71 is trying to lock:",
        "ffff00000332d370 (&dev->mutex){+.+.}-{3:3}, at: feed_one+0x9d/0x110",
        "but this task is not holding:",
    )
    assert (found.function, found.cut) == ("feed_one", True)


LOCKED = "ffff88807d (&n->list_lock){..-.}-{3:3}, at: {}+0x2a8/0x558"


@pytest.mark.parametrize(
    ("taken", "frames", "function"),
    [
        # The functions that take the scheduler's and the allocator's own locks can be blamed.
        ("put_cpu_partial", ("lock_acquire", "put_cpu_partial", "kfree"), "put_cpu_partial"),
        ("try_to_wake_up", ("lock_acquire", "try_to_wake_up", "feed"), "try_to_wake_up"),
        # Lock functions, reclaim annotations and waits for work items are not blamed.
        ("fs_reclaim_acquire", ("fs_reclaim_acquire", "kmalloc_node", "feed"), "kmalloc_node"),
        ("flush_workqueue", ("lock_acquire", "flush_workqueue", "feed"), "feed"),
        ("vprintk_emit", ("_raw_spin_lock", "vprintk_emit", "panic", "bad_mode"), "bad_mode"),
    ],
)
@pytest.mark.parametrize(
    "opening",
    ["WARNING: inconsistent lock state", "WARNING: possible circular locking dependency detected"],
)
def test_a_lockdep_report_blames_the_function_that_takes_the_lock(
    opening: str, taken: str, frames: tuple[str, ...], function: str
) -> None:
    other = "1 lock held by sh/71:", " #0: ff (rcu_read_lock){....}-{1:3}, at: lookup+0x0/0x4a8"
    found = read(opening, LOCKED.replace("{}", taken), *other, CPU, *trace("dump_stack", *frames))
    assert found.function == function


def test_an_uninitialised_lock_blames_the_caller_of_the_function_that_locks_it() -> None:
    frames = "dump_stack", "register_lock_class", "lock_acquire", "del_timer_sync", "feed_one"
    found = read("INFO: trying to register non-static key.", CPU, *trace(*frames))
    assert found.function == "feed_one"


def test_a_lock_taken_in_an_interrupt_blames_the_interrupt_handler() -> None:
    found = read(
        "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected",
        "ffff8880120b9168 (&new->fa_lock){.?.+}-{2:2}, at: kill_fasync+0x14b/0x460",
        "... which became HARDIRQ-irq-safe at:",
        "  lock_acquire+0x29d/0x740",
        "  serio_interrupt+0x7b/0xb0",
        "stack backtrace:",
        CPU,
        *trace("kill_fasync"),
    )
    assert found.function == "serio_interrupt"


@pytest.mark.parametrize(
    "reason",
    [
        "Fatal exception",
        "Oops: Fatal exception in interrupt",
        "synchronous external abort: Fatal exception",
        "kernel: panic_on_warn set ...",
        "hung_task: blocked tasks",
    ],
)
def test_a_panic_that_results_from_a_splat_belongs_to_the_splat(reason: str) -> None:
    panic = f"Kernel panic - not syncing: {reason}"
    found = read(OOPS, CPU, *trace("feed_one"), END, "note: sh[71] exited", panic, "SMP: stopping")
    assert (found.kind, found.function, found.panic) == ("Oops", "feed_one", reason)


def test_an_unrelated_panic_is_a_separate_splat() -> None:
    panic = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"
    oops, second = splat.find(
        [OOPS, CPU, *trace("feed_one"), END, panic, CPU, *trace("panic", "exit")]
    )
    assert (oops.kind, oops.panic, second.kind) == ("Oops", "", "panic")


def test_a_kasan_report_separates_the_traces_of_access_allocation_and_free() -> None:
    found = read(
        "BUG: KASAN: slab-use-after-free in feed_one+0x1/0x2",
        CPU,
        *trace("dump_stack", "kasan_report", "feed_one", "feed_all"),
        "",
        "Allocated by task 7:",
        " kasan_save_stack+0x1/0x2",
        " make_it+0x1/0x2",
        "",
        "Freed by task 8:",
        " kfree+0x1/0x2",
        " drop_it+0x1/0x2",
        "=" * 66,
    )
    assert [each.name for each in found.chains] == ["call trace", "allocation", "free"]
    assert found.chains[2].frames[-1].function == "drop_it"
    assert (found.function, found.caller, found.cut) == ("feed_one", "feed_all", False)


WARNING = "WARNING: CPU: 1 PID: 71 at mm/slab_common.c:1012 kmalloc_slab+0x5d/0x70"
PANIC = "Kernel panic - not syncing: panic_on_warn set ..."
OTHER = "CPU: 0 PID: 90 Comm: rm Not tainted 6.12.117 #1"


def test_a_warning_that_panics_uses_the_trace_of_the_panic() -> None:
    own = trace("dump_stack", "panic", "__warn", "kmalloc_slab", "feed_one", "feed_all")
    found = read(WARNING, PANIC, CPU, *own, OTHER, *trace("dump_stack", "should_fail", "drink"))
    assert (found.function, found.caller) == ("feed_one", "feed_all")


@pytest.mark.parametrize("own", [("mutex_lock", "feed_one", "feed_all"), ("feed_one", "feed_all")])
def test_an_oops_uses_the_trace_that_contains_its_program_counter(
    own: tuple[str, ...],
) -> None:
    other = [OTHER, *trace("dump_stack", "should_fail", "drink")]
    registers = [CPU, "RIP: 0010:mutex_lock+0x10/0x200"]
    found = read(OOPS, *other, *registers, *trace(*own), END)
    assert (found.function, found.caller) == ("feed_one", "feed_all")
    found = read(OOPS, "IP: mutex_lock+0x10/0x200", *other, *registers, *trace(*own), END)
    assert (found.function, found.caller) == ("feed_one", "feed_all")


@pytest.mark.parametrize(
    "opening",
    [
        ["BUG: KASAN: use-after-free in kfree+0x1/0x2", "Read of size 4 at addr f0 by task sh/71"],
        ["WARNING: suspicious RCU usage", "1 lock held by sh/71:"],
        ["BUG: using smp_processor_id() in preemptible [00000000] code: sh/71"],
        ["BUG: scheduling while atomic: sh/71/0x00000002"],
        [
            "BUG: sleeping function called from invalid context at mm/slab.h:5",
            "in_atomic(): 1, irqs_disabled(): 0, pid: 71, name: sh",
        ],
        ["WARNING: CPU: 1 PID: 71 at lib/x.c:5"],
    ],
    ids=lambda each: str(each[0])[:20],
)
def test_a_splat_uses_the_trace_of_its_own_task(opening: list[str]) -> None:
    other = [OTHER, *trace("dump_stack", "should_fail", "drink")]
    found = read(*opening, *other, CPU, *trace("dump_stack", "kfree", "feed_one", "feed_all"))
    assert (found.function, found.caller, found.pid) == ("feed_one", "feed_all", 71)
    assert (found.cpu, found.interleaved) == (1, True)


def test_an_allocation_failure_of_another_task_does_not_end_a_splat() -> None:
    failure = "rm: page allocation failure: order:0, mode:0x40cc0(GFP_KERNEL), nodemask=(null)"
    registers = ["pc : feed_one+0x10/0x200", "lr : feed_one+0x8/0x20"]
    own = trace("feed_one", "feed_all")
    elsewhere = [failure, OTHER, *trace("dump_stack", "warn_alloc", "drink")]
    found = read(OOPS, CPU, *registers, *elsewhere, *own, END)
    assert (found.kind, found.function, found.interleaved) == ("Oops", "feed_one", True)
    own = trace("dump_stack", "panic", "__warn", "kmalloc_slab", "feed_one")
    found = read(WARNING, PANIC, "", failure, CPU, *own, *elsewhere[1:])
    assert (found.kind, found.function, found.interleaved) == ("WARNING", "feed_one", True)


def test_an_oom_report_of_another_task_does_not_end_the_splat_of_a_panic() -> None:
    reason = "Kernel panic - not syncing: corrupted stack end detected inside scheduler"
    inner, outer = trace("panic", "__schedule", "feed_one"), trace("feed_all", "process_one_work")
    killer = "rm invoked oom-killer: gfp_mask=0x6202c2(GFP_HIGHUSER), order=0, oom_score_adj=0"
    found = read(reason, CPU, *inner, killer, "rm cpuset=/ mems_allowed=0", *outer[1:])
    assert (found.kind, found.function) == ("panic", "feed_all")


def test_a_stack_protector_panic_blames_the_function_with_the_corrupted_stack() -> None:
    panic = "Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: "
    found = read(f"{panic}feed_one+0x7ea/0x7f0", CPU, "Call Trace:", "Kernel Offset: disabled")
    assert (found.kind, found.function) == ("panic", "feed_one")
    assert found.title == "kernel panic: stack-protector: Kernel stack is corrupted in feed_one"
    own = trace("dump_stack", "panic", "__stack_chk_fail", "feed_one", "feed_all")
    found = read(f"{panic}ffffffff8123abcd", CPU, *own)
    assert (found.function, found.caller) == ("feed_one", "feed_all")


def test_an_oops_continues_after_a_splat_on_another_cpu() -> None:
    atomic = "BUG: using __this_cpu_read() in preemptible [00000000] code: rm/90"
    other = [atomic, OTHER, *trace("dump_stack", "check_preemption_disabled", "drink", "sip")]
    own = ["Modules linked in:", CPU, "RIP: 0010:kfree+0x10/0x200", *trace("feed_one", "feed_all")]
    oops, report = splat.find([OOPS, *other, *own, END])
    assert (oops.kind, oops.function, oops.interleaved) == ("Oops", "feed_one", True)
    assert (report.kind, report.function, report.pid) == ("preemptible", "drink", 90)
    # An oops that does not continue ends with the log or the next report.
    assert [each.kind for each in splat.find([OOPS, *other])] == ["Oops", "preemptible"]
    kinds = [each.kind for each in splat.find([OOPS, *other, WARNING, CPU, *trace("a", "b")])]
    assert kinds == ["Oops", "preemptible", "WARNING"]


def test_a_report_does_not_blame_an_oops_that_dumping_it_causes() -> None:
    opening = "BUG: KASAN: use-after-free in rb_erase+0x26d0/0x3710"
    own = trace("dump_stack", "kasan_report", "rb_erase", "feed_one", "feed_all")
    dump = [OOPS, CPU, "RIP: 0010:symbol_find+0x289/0x4a0", "Call Trace:"]
    found = read(opening, "Write of size 8 at addr f0 by task sh/71", CPU, *own, *dump, END)
    assert (found.kind, found.function, found.caller) == ("KASAN", "feed_one", "feed_all")


def test_an_oops_continues_after_a_splat_that_panics_on_another_cpu() -> None:
    opening = "BUG: KASAN: use-after-free in rb_next_postorder+0x7c/0xa0"
    rule = "=" * 66
    other = [rule, opening, OTHER, *trace("dump_stack", "rb_next_postorder", "drink"), rule]
    own = ["Oops: 0002 [#1] SMP", CPU, "RIP: 0010:kfree+0x1e/0x90", *trace("feed_one"), END]
    panic = "Kernel panic - not syncing: panic_on_warn set ..."
    oops, report = splat.find([OOPS, *other, panic, "", *own])
    assert (oops.kind, oops.function, oops.panic) == ("Oops", "feed_one", "")
    assert (report.kind, report.function) == ("KASAN", "drink")
    assert report.panic == "panic_on_warn set ..."


def test_a_lock_warning_in_a_socket_helper_blames_its_caller() -> None:
    locks = ("__lock_acquire", "lock_acquire", "_raw_spin_lock_bh", "lock_sock_nested")
    place = "WARNING: CPU: 1 PID: 71 at kernel/locking/lockdep.c:167 hlock_class+0x1/0x2"
    frames = [CPU, "RIP: 0010:hlock_class+0x1/0x2", *trace(*locks, "feed_one"), END]
    assert read(place, *frames).function == "feed_one"
    # Elsewhere it is the lock that is used wrongly, not the socket.
    place = "WARNING: CPU: 1 PID: 71 at net/core/sock.c:167 lock_sock_nested+0x1/0x2"
    assert read(place, CPU, *trace("lock_sock_nested", "feed_one")).function == "lock_sock_nested"


def test_queue_work_is_blamed_only_for_a_crash_in_its_own_code() -> None:
    queues = ("__queue_work", "queue_work_on", "feed_one", "feed_all")
    own = read(OOPS, CPU, "RIP: 0010:__queue_work+0xa0/0x74c", *trace(*queues), END)
    assert (own.function, own.caller) == ("__queue_work", "feed_one")
    opening = "BUG: KASAN: out-of-bounds in stack_trace_consume_entry+0x141/0x160"
    frames = ("kasan_report", "stack_trace_consume_entry", "insert_work", *queues)
    assert read(opening, CPU, *trace(*frames)).function == "feed_one"


def test_a_wait_for_work_is_not_blamed_for_the_work_of_its_caller() -> None:
    place = "WARNING: CPU: 1 PID: 71 at kernel/workqueue.c:3031 __flush_work.cold+0x2c/0x36"
    pc = "RIP: 0010:__flush_work.cold+0x2c/0x36"
    assert read(place, CPU, pc, *trace("feed_one", "feed_all"), END).function == "feed_one"
    pc = "RIP: 0010:drain_workqueue+0x40/0x200"
    assert read(OOPS, CPU, pc, *trace("feed_one"), END).function == "drain_workqueue"


def test_a_soft_lockup_in_a_sanitizer_blames_the_cross_cpu_call() -> None:
    opening = "watchdog: BUG: soft lockup - CPU#1 stuck for 123s! [sh:71]"
    pc = "RIP: 0010:msan_get_shadow_origin_ptr+0x6f/0x300"
    frames = trace("__msan_metadata_ptr_for_load_4", "smp_call_function_single", "feed_one")
    assert read(opening, CPU, pc, *frames).function == "smp_call_function"


def test_a_kasan_report_does_not_blame_a_copy_callback() -> None:
    opening = "BUG: KASAN: slab-out-of-bounds in simple_copy_to_iter+0x1/0x2"
    frames = ("dump_stack", "kasan_report", "simple_copy_to_iter", "feed_iter", "feed_all")
    assert read(opening, CPU, *trace(*frames)).function == "feed_iter"


def test_a_lockdep_report_about_a_console_lock_blames_the_console_driver() -> None:
    found = read(
        "[ INFO: possible circular locking dependency detected ]",
        "swapper/2/0 is trying to acquire lock:",
        " (&port_lock_key){-.-...}, at: [<c036a6dc>]     feed_console_write+0x108/0x134",
    )
    assert found.function == "feed_console_write"


def test_a_module_function_with_the_name_of_machinery_is_blamed() -> None:
    opening = "BUG: KASAN: stack-out-of-bounds in kasan_feed+0x204/0x22c [feed]"
    frames = ["Call trace:", " kasan_report+0xa8/0xe0", " kasan_feed+0x204/0x22c [feed]"]
    assert read(opening, CPU, *frames, " run_case+0x1/0x2").function == "kasan_feed"
    # Machinery that can be built as a module is still skipped.
    frames = ["Call trace:", " usb_control_msg+0xa8/0xe0 [usbcore]", " probe+0x204/0x22c [feed]"]
    assert read(OOPS, CPU, *frames).function == "probe"


def test_find_parses_a_warning_with_a_negative_pid() -> None:
    found = read(
        "WARNING: CPU: 5 PID: -534549613 at kernel/feed.c:26 feed_one+0x230/0x23c",
        "CPU: 5 PID: -534549613 Comm: Yl Not tainted 6.12.0 #8",
        *trace("feed_all"),
    )
    assert (found.kind, found.function, found.pid) == ("WARNING", "feed_one", -534549613)


def test_a_bad_unlock_blames_the_function_on_the_line_after_the_lock() -> None:
    head = ["WARNING: bad unlock balance detected!", "6.1.0 #9 Not tainted"]
    asks = "sh/71 is trying to release lock (&feed->lock) at:"
    place = "[<ffffa00010726344>] {}+0x154/0x1b0"
    but = "but there are no more locks to release!"
    reporters = ("print_unlock_imbalance_bug", "lock_release")
    stack = ["stack backtrace:", CPU, *trace("dump_stack", *reporters, "__might_fault", "feed_one")]
    assert read(*head, asks, place.format("feed_unlock")).function == "feed_unlock"
    assert read(*head, asks, place.format("feed_unlock"), but, *stack).function == "feed_unlock"
    assert read(*head, asks, place.format("__might_fault"), but, *stack).function == "feed_one"


def test_preemptible_code_blames_the_caller_that_the_kernel_reports() -> None:
    opening = "BUG: using smp_processor_id() in preemptible [00000000] code: sh/71"
    stack = [CPU, *trace("dump_stack", "debug_smp_processor_id", "radix_tree_alloc", "feed_one")]
    assert read(opening, "caller is radix_tree_alloc+0x20/0x30", *stack).function == (
        "radix_tree_alloc"
    )
    checks = "caller is debug_smp_processor_id+0x1c/0x26"
    assert read(opening, checks, *stack).function == "feed_one"


@pytest.mark.parametrize(
    ("frames", "blamed"),
    [
        # It calls itself.
        (("feed_one", "feed_one", "feed_one", "feed_store", "vfs_write"), ("feed_one", 0)),
        # Of a cycle of functions none is to blame.
        (("feed_one", "feed_two") * 4 + ("feed_store", "vfs_write"), ("feed_store", "vfs_write")),
        # The dispatcher in the cycle is part of it.
        (
            ("raw_notifier_call_chain", "feed_one") * 4 + ("feed_store", "vfs_write"),
            ("feed_store", 0),
        ),
        # The trace ends in the cycle.
        (("notifier_call_chain", "feed_one", "feed_two") * 4, ("feed_one", "feed_two")),
    ],
)
def test_a_stack_overflow_blames_the_recursion_or_the_work(
    frames: tuple[str, ...], blamed: tuple[str, str | int]
) -> None:
    opening = "BUG: TASK stack guard page was hit at ffffc900 (stack is ffffc901..ffffc902)"
    stack = trace("lock_acquire", "account_time", "eth_notify", *frames)
    registers = ["stack guard page: 0000 [#1] SMP", CPU, "RIP: 0010:mark_lock+0x23/0x17b0"]
    found = read(opening, *registers, *stack, END)
    assert found.function == blamed[0]
    assert not blamed[1] or found.caller == blamed[1]


def test_a_panic_for_scheduling_while_atomic_blames_the_caller_of_the_scheduler() -> None:
    found = read(
        "BUG: scheduling while atomic: sh/71/0x00000002",
        "Preemption disabled at:",
        "[<ffffffff812aa3e4>] feed_begin+0x64/0x260",
        "Kernel panic - not syncing: scheduling while atomic",
        CPU,
        *trace("dump_stack", "panic", "__schedule_bug", "__schedule", "schedule"),
        " exit_to_user_mode_prepare+0x10/0x200",
        " asm_exc_page_fault+0x10/0x200",
    )
    assert (found.function, found.panic) == (
        "exit_to_user_mode_prepare",
        "scheduling while atomic",
    )


def test_an_oops_in_a_helper_blames_an_unreliable_frame_if_no_frame_is_reliable() -> None:
    doubtful = [" ? list_del+0x1/0x20", " ? feed_one+0x8/0x90", " ? feed_all+0x8/0x90"]
    pc = "RIP: 0010:__list_del_entry_valid+0x59/0x8e"
    assert read(OOPS, CPU, pc, "Call Trace:", *doubtful).function == "feed_one"
    pc = "RIP: 0010:feed_none+0x59/0x8e"
    assert read(OOPS, CPU, pc, "Call Trace:", *doubtful).function == "feed_none"


def test_a_return_address_at_the_start_of_a_function_is_not_blamed() -> None:
    """panic() does not return, so the address after its call can be in the next function."""
    (found,) = splat.find(
        [
            "Kernel panic - not syncing: out of reach",
            "Call trace:",
            " panic+0x354/0x368",
            " next_function+0x0/0x3c",
            " caller_of_the_hidden+0xa8/0x1e4",
        ]
    )
    assert found.function == "caller_of_the_hidden"
