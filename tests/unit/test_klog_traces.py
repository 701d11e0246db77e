# SPDX-License-Identifier: GPL-2.0-only
"""Which lines and traces belong to a splat, among those of panics, other tasks and other CPUs."""

import pytest

from harness.klog import splat
from tests.unit.crashlog import CPU, END, OOPS, read, trace


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
