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


def test_a_hardirq_lock_order_report_blames_the_interrupt_handler() -> None:
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
