# SPDX-License-Identifier: GPL-2.0-only
"""Helpers that a splat skips, so that it blames their caller."""

import pytest

from tests.unit.crashlog import CPU, END, read, trace


@pytest.mark.parametrize(
    "helpers",
    [
        ("add_uevent_var", "kobject_uevent_env", "device_add"),
        ("refcount_inc", "kobject_get", "get_device_parent", "device_add"),
        ("__seqprop_assert",),
        ("__kmalloc_large_node", "kmalloc_array_noprof", "kvmalloc_node"),
        ("__kthread_create_on_node", "kthread_create_on_node"),
        ("check_free_page_bad", "__free_pages_ok", "kmem_freepages", "slabs_destroy", "kfree"),
    ],
)
def test_a_warning_blames_the_caller_of_helpers(helpers: tuple[str, ...]) -> None:
    place = f"WARNING: CPU: 1 PID: 71 at lib/x.c:5 {helpers[0]}+0x1/0x2"
    assert read(place, CPU, *trace(*helpers, "feed_one"), END).function == "feed_one"


@pytest.mark.parametrize("test", ["kmalloc_oob_right", "kasan_atomics", "strscpy_test"])
def test_a_kunit_test_with_the_name_of_a_helper_is_blamed(test: str) -> None:
    opening = f"BUG: KASAN: slab-out-of-bounds in {test}+0x190/0x3b8"
    frames = trace("kasan_report", "__asan_store1", test, "kunit_try_run_case", "kthread")
    assert read(opening, CPU, *frames).function == test


def test_a_deadlock_with_the_console_blames_the_caller_of_printk() -> None:
    at = "ffffffff8600aef8 ((console_sem).lock){-.-.}, at: down_trylock+0x13/0x70"
    locks = ("__lock_acquire", "lock_acquire", "_raw_spin_lock_irqsave", "down_trylock")
    prints = ("__down_trylock_console_sem", "vprintk_emit", "_printk", "feed_one")
    opening = "WARNING: possible circular locking dependency detected"
    assert read(opening, at, CPU, *trace("dump_stack", *locks, *prints)).function == "feed_one"


def test_lockdep_blames_the_caller_of_atomic_dec_and_lock() -> None:
    at = "ffff88803c86db70 (&feed->lock){+.+.}, at: _atomic_dec_and_lock+0x9d/0x110"
    frames = trace("dump_stack", "lock_acquire", "_raw_spin_lock", "_atomic_dec_and_lock")
    opening = "WARNING: Nested lock was not taken"
    stack = [*frames, *trace("feed_put")[1:]]
    assert read(opening, at, CPU, *stack).function == "feed_put"


@pytest.mark.parametrize("helper", ["kmalloc", "might_fault", "list_add_tail", "spin_lock"])
def test_a_splat_does_not_blame_an_inline_function_compiled_into_a_module(helper: str) -> None:
    opening = "BUG: sleeping function called from invalid context at lib/x.c:5"
    frames = [
        "Call trace:",
        " dump_stack+0x1/0x2",
        f" {helper}+0x9/0x10 [feed]",
        " feed_one+0x1/0x8",
    ]
    assert read(opening, CPU, *frames).function == "feed_one"


def test_a_leak_blames_the_driver_that_allocates_the_packet() -> None:
    opening = "unreferenced object 0xc5970f00 (size 176):"
    task = '  comm "softirq", pid 0, jiffies 100 (age 7.592s)'
    frames = ["kmem_cache_alloc", "__build_skb", "__netdev_alloc_skb", "feed_refill", "feed_poll"]
    lines = [f"    [<0000000{index}>] {each}+0x1/0x8" for index, each in enumerate(frames)]
    assert read(opening, task, "  backtrace:", *lines).function == "feed_refill"


@pytest.mark.parametrize("allocator", ["feed_map_alloc", "alloc_feed", "feed_allocate"])
def test_a_leak_blames_the_caller_of_the_function_that_allocates(allocator: str) -> None:
    frames = [
        "__kmalloc",
        "pcpu_mem_zalloc",
        "pcpu_alloc",
        allocator,
        "__list_lru_init",
        "feed_one",
    ]
    lines = [f"    [<0000000{index}>] {each}+0x1/0x8" for index, each in enumerate(frames)]
    opening = ("unreferenced object 0xc5970f00 (size 176):", "  backtrace:")
    assert read(*opening, *lines).function == "feed_one"
    # A trace that ends there blames it.
    assert read(*opening, *lines[:4]).function == allocator
