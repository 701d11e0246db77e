# SPDX-License-Identifier: GPL-2.0-only
"""Which function an RCU stall, a lockup or a hung task blames."""

import pytest

from harness.klog import splat
from tests.unit.crashlog import CPU, read, trace

STALL = "rcu: INFO: rcu_preempt self-detected stall on CPU"


TICK = ("rcu_sched_clock_irq", "update_process_times", "hrtimer_interrupt", "gic_handle_irq")


def test_a_stall_blames_the_dispatched_function() -> None:
    inner = ("lock_acquire", "_raw_spin_lock_bh", "anything", "feed_store", "dev_attr_store")
    found = read(STALL, CPU, *trace(*TICK, "el1h_64_irq", *inner, "vfs_write"))
    assert (found.function, found.title) == ("feed_store", "RCU stall in feed_store")
    assert "el1h_64_irq" in found.frames


@pytest.mark.parametrize(
    ("frames", "function"),
    [
        # A 32-bit program takes another way to the same function.
        (
            ("lock_acquire", "feed_one", "feed_ioctl", "feed_compat_ioctl", "sys_ioctl"),
            "feed_ioctl",
        ),
        # Not all that calls a file system dispatches.
        (("d_walk", "shrink_dcache_parent", "vfs_rmdir", "__ia32_sys_rmdir"), "sys_rmdir"),
    ],
)
def test_a_stall_in_a_system_call_blames_it_or_the_function_it_dispatches_to(
    frames: tuple[str, ...], function: str
) -> None:
    inner = (*frames, "do_fast_syscall_32")
    assert read(STALL, CPU, *trace(*TICK, "el1h_64_irq", *inner)).function == function


def test_a_stall_recognises_an_interrupt_marker_within_a_frame() -> None:
    stall = "INFO: rcu_sched detected stalls on CPUs/tasks:"
    interrupt = " <IRQ>  [<ffffffff816efb87>] _sched_show_task+0x31a/0x325"
    behind = " <EOI>  [<ffffffff815bcdb1>] feed_one+0x21/0x60"
    frames = ["Call Trace:", interrupt, *trace(*TICK)[1:], behind, *trace("vfs_write")[1:]]
    found = read(stall, *frames)
    assert (found.function, found.frames[0]) == ("feed_one", "_sched_show_task")
    assert [each.name for each in found.chains] == ["IRQ", "call trace"]


def test_a_workqueue_lockup_blames_the_work_of_the_first_worker_shown() -> None:
    opening = "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 168s!"
    busy = ["workqueue events: flags=0x0", "  pwq 2: cpus=0 node=0", "    in-flight: 84:feed"]
    found = read(opening, "Showing busy workqueues and worker pools:", *busy * 20)
    assert (found.function, len(found.text)) == ("", 62)
    worker = ["pool 2:", "task:kworker/0:1     state:R  running task     stack:0     pid:10"]
    shown = [*worker, "Workqueue: queue feed_work", *trace("__schedule", "preempt_schedule")]
    found = read(opening, *busy, *shown, "Workqueue: queue other_work")
    assert (found.function, found.cut) == ("feed_work", False)


def test_a_stall_does_not_blame_the_grace_period_kthread() -> None:
    starved = "rcu: RCU grace-period kthread stack dump:"
    kthread = trace("__schedule", "schedule", "rcu_gp_fqs_loop", "rcu_gp_kthread", "kthread")
    other = ["NMI backtrace for cpu 0", CPU, *trace("spin_here", "process_one_work")]
    assert read(STALL, starved, *kthread, *other).function == "spin_here"


def test_a_stall_that_two_cpus_detect_is_one_splat() -> None:
    other = "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:"
    backtrace = ["NMI backtrace for cpu 1", CPU, *trace("spin_here", "process_one_work")]
    assert read(STALL, other, *backtrace).function == "spin_here"
    later = ["rcu: \t(detected by 0, t=10002 jiffies, g=-959, q=12 ncpus=2)", other]
    assert len(splat.find([STALL, *later, *backtrace])) == 2


def test_a_stall_does_not_blame_the_console_driver_that_prints_it() -> None:
    console = ("wait_for_xmitr", "pl011_console_putchar", "uart_console_write", "printk")
    frames = trace(*console, *TICK, "el1h_64_irq", "spin_here", "feed_work", "process_one_work")
    assert read(STALL, CPU, *frames).function == "feed_work"


def test_a_stall_in_a_cross_cpu_call_blames_the_call() -> None:
    frames = trace(*TICK, "el1h_64_irq", "smp_call_function_single", "rcu_barrier", "feed_work")
    assert read(STALL, CPU, *frames).function == "smp_call_function"


@pytest.mark.parametrize(
    ("frames", "function"),
    [
        (("__schedule", "schedule", "__wait_rcu_gp", "synchronize_rcu", "pull"), "synchronize_rcu"),
        (("schedule", "synchronize_rcu_expedited", "pull"), "synchronize_rcu"),
        (("schedule", "wait_rcu_gp", "synchronize_sched", "pull"), "synchronize_rcu"),
        (("schedule", "wait_for_completion", "__synchronize_srcu", "pull"), "synchronize_srcu"),
        (("schedule", "wait_for_completion", "rcu_barrier", "pull"), "rcu_barrier"),
        (("__schedule", "schedule", "wait_for_completion", "kthread_stop", "pull"), "pull"),
    ],
)
def test_a_hung_task_that_waits_for_rcu_blames_the_rcu_function(
    frames: tuple[str, ...], function: str
) -> None:
    opening = "INFO: task rmmod:33 blocked for more than 120 seconds."
    assert read(opening, CPU, *trace(*frames, "notify")).function == function


HUNG = "INFO: task sh:71 blocked for more than 120 seconds."


@pytest.mark.parametrize(
    ("frames", "function"),
    [
        (("__schedule", "schedule", "__wait_rcu_gp", "synchronize_rcu", "feed_one"), 3),
        (("__schedule", "__wait_for_common", "rcu_barrier", "feed_one"), 2),
        # This task waits for another task in the same barrier.
        (("__schedule", "__mutex_lock", "rcu_barrier", "feed_one"), 3),
        (("schedule_timeout", "__down", "down", "console_lock", "feed_one"), 4),
        (("schedule", "__mutex_lock", "tty_lock", "feed_one"), 3),
        (("schedule", "__mutex_lock", "rtnl_lock", "feed_one"), 2),
    ],
)
def test_a_hung_task_blames_the_function_that_waits(frames: tuple[str, ...], function: int) -> None:
    assert read(HUNG, "Call Trace:", *trace(*frames)).function == frames[function]


def test_the_name_of_a_hung_task_can_span_two_lines() -> None:
    hung = "INFO: task two", "lines:71 blocked for more than 120 seconds."
    assert read(*hung, "Call Trace:", *trace("schedule", "feed_one")).function == "feed_one"


@pytest.mark.parametrize("dispatcher", ["nfnetlink_rcv_msg", "genl_rcv_msg", "xfrm_user_rcv_msg"])
def test_a_stall_blames_the_handler_of_a_netlink_message(dispatcher: str) -> None:
    stuck = trace("spin_there", "feed_one", dispatcher, "netlink_rcv_skb", "netlink_unicast")
    assert read(STALL, *stuck).function == "feed_one"


def test_a_stall_blames_the_handler_of_a_socket_operation() -> None:
    frames = ("feed_one", "feed_sendmsg", "sock_sendmsg", "____sys_sendmsg", "__sys_sendmmsg")
    assert read(STALL, CPU, *trace(*frames, "__arm64_sys_sendmmsg")).function == "feed_sendmsg"


def test_a_stall_in_a_kernel_page_fault_blames_the_interrupted_system_call() -> None:
    fault = ("count_event", "handle_mm_fault", "do_user_addr_fault", "exc_page_fault")
    work = ("asm_exc_page_fault", "copy_user", "feed_one", "__x64_sys_recvmmsg", "do_syscall_64")
    tick = (*TICK[:-1], "asm_sysvec_apic_timer_interrupt")
    assert read(STALL, CPU, *trace(*tick, *fault, *work)).function == "sys_recvmmsg"
    user = trace(*tick, *fault, "asm_exc_page_fault")
    assert read(STALL, CPU, *user).function == "count_event"


def test_a_stall_in_a_netlink_reply_blames_the_request_handler() -> None:
    reply = ("netlink_lookup", "netlink_unicast", "feed_get", "nfnetlink_rcv_msg")
    request = ("netlink_rcv_skb", "nfnetlink_rcv", "netlink_unicast", "netlink_sendmsg")
    assert read(STALL, CPU, *trace(*TICK, *reply, *request)).function == "feed_get"


def test_a_stall_on_32_bit_arm_blames_the_system_call() -> None:
    lines = [
        "[<80692150>] (rcu_sched_clock_irq) from [<80100b6c>] (__irq_svc+0x6c/0x90)",
        "[<80100b6c>] (__irq_svc) from [<80616f94>] (feed_user+0x140/0x1dc)",
        "[<80616f94>] (feed_user) from [<80321578>] (sys_openat2+0x124/0x170)",
        "[<80321578>] (sys_openat2) from [<80100080>] (ret_fast_syscall+0x0/0x54)",
    ]
    assert read(STALL, CPU, *lines).function == "sys_openat2"


@pytest.mark.parametrize(
    "waits",
    [
        ("blk_mq_freeze_queue_wait",),
        ("blk_mq_freeze_queue_wait", "blk_freeze_queue"),
        ("folio_wait_bit_common", "__filemap_get_folio"),
        ("io_schedule", "wait_on_page_bit", "pagecache_get_page"),
    ],
)
def test_a_hung_task_blames_the_caller_of_a_waiting_helper(waits: tuple[str, ...]) -> None:
    frames = trace("__schedule", "schedule", *waits, "feed_one")
    assert read(HUNG, "Call Trace:", *frames).function == "feed_one"


@pytest.mark.parametrize("fault", [("do_page_fault",), ("do_user_addr_fault", "exc_page_fault")])
def test_a_hung_task_that_waits_in_a_page_fault_blames_the_fault(fault: tuple[str, ...]) -> None:
    frames = trace("__schedule", "schedule", "rwsem_down_read_failed", "down_read", *fault)
    assert read(HUNG, "Call Trace:", *frames).function == fault[0]


@pytest.mark.parametrize(
    "dispatcher",
    [
        ("__fput", "____fput", "task_work_run"),
        ("mmap_region", "do_mmap"),
        ("do_sock_setsockopt", "__sys_setsockopt"),
        ("__sys_connect", "__x64_sys_connect"),
        ("vfs_fsync_range", "do_fsync"),
    ],
)
def test_a_stall_blames_the_operation_of_a_file_or_socket(dispatcher: tuple[str, ...]) -> None:
    stuck = trace("spin_there", "feed_one", *dispatcher, "do_syscall_64")
    assert read(STALL, *stuck).function == "feed_one"


def test_a_stall_in_a_dispatcher_blames_the_dispatcher() -> None:
    netlink = ("nfnetlink_rcv_msg", "netlink_rcv_skb", "netlink_sendmsg", "sock_sendmsg")
    assert read(STALL, *trace("rcu_read_lock_held", *netlink)).function == "nfnetlink_rcv_msg"


@pytest.mark.parametrize(
    "waits",
    [
        ("__mutex_lock", "pipe_lock_nested"),
        ("rwsem_down_write_slowpath", "i_mmap_lock_write"),
        ("io_schedule", "wait_transaction_locked"),
        ("folio_wait_bit_common", "folio_wait_writeback"),
    ],
)
def test_a_hung_task_blames_the_caller_of_a_lock_or_wait_wrapper(waits: tuple[str, ...]) -> None:
    frames = trace("__schedule", "schedule", *waits, "feed_one")
    assert read(HUNG, "Call Trace:", *frames).function == "feed_one"


def test_a_stall_in_a_read_blames_the_file_system() -> None:
    stuck = trace("filemap_read", "generic_file_read_iter", "feed_read_iter", "new_sync_read")
    assert read(STALL, *stuck).function == "feed_read_iter"
