# SPDX-License-Identifier: GPL-2.0-only
"""Splats that open with several lines."""

import pytest

from tests.unit.crashlog import CPU, END, read, trace


def test_find_joins_the_opening_lines_of_inlined_functions() -> None:
    found = read(
        "BUG: KASAN: slab-use-after-free in atomic_read include/linux/feed.h:23 [inline]",
        "BUG: KASAN: slab-use-after-free in feed_count lib/feed.c:104 [inline]",
        "BUG: KASAN: slab-use-after-free in feed_all+0x348/0x350 lib/feed.c:225",
        "Read of size 4 at addr ffff0000c1a81f40 by task sh/71",
        CPU,
        *trace("kasan_report", "feed_all", "feed_store"),
    )
    assert (found.function, found.title) == ("feed_all", "KASAN: slab-use-after-free in feed_all")
    found = read(
        "WARNING: lib/feed.c:62 at feed_count lib/feed.c:62 [inline], CPU#0: sh/71",
        "WARNING: lib/feed.c:62 at feed_all+0x344/0x3c0 lib/feed.c:81, CPU#0: sh/71",
        CPU,
        *trace("feed_store"),
        END,
    )
    assert (found.function, found.line) == ("feed_all", 62)


def test_find_joins_wrapped_opening_lines_of_inlined_functions() -> None:
    found = read(
        "BUG: KASAN: use-after-free in atomic_read",
        "home/builder/linux/./include/linux/feed.h:23",
        "[inline]",
        "BUG: KASAN: use-after-free in feed_all+0x68/0x2b0",
        "home/builder/linux/lib/feed.c:88",
        CPU,
        *trace("kasan_report", "feed_all", "feed_store"),
    )
    assert found.function == "feed_all"


@pytest.mark.parametrize(
    ("place", "text", "title"),
    [
        (
            "lib/debugobjects.c:263 debug_print_object+0x6a/0x8c()",
            "ODEBUG: free active (active state 0) object type: timer_list hint: feed_timeout",
            "ODEBUG: free active in feed_one",
        ),
        (
            "lib/list_debug.c:29 __list_add+0x87/0xa0",
            "list_add corruption. next->prev should be prev (dead), but was beef. (next=f00d).",
            "list_add corruption in feed_one",
        ),
    ],
)
def test_the_text_below_a_warning_determines_its_title(place: str, text: str, title: str) -> None:
    helper = place.split()[1].partition("+")[0]
    opening = f"WARNING: CPU: 0 PID: 4 at {place}"
    found = read("------------[ cut here ]------------", opening, text, *trace(helper, "feed_one"))
    assert (found.title, found.pid, len(found.text)) == (title, 4, 5)


def test_find_recognises_a_general_protection_fault_after_a_kasan_hint() -> None:
    hint = "kasan: GPF could be caused by NULL-ptr deref or user memory access"
    opening = f"{hint}general protection fault: 0000 [#1] PREEMPT SMP KASAN"
    rip = "RIP: 0010:[<ffffffff81d64236>]  [<ffffffff81d64236>] __list_del_entry+0x86/0x1d0"
    found = read(opening, CPU, rip, *trace("list_del", "feed_one"), END)
    assert found.title == "general protection fault in feed_one"


def test_a_list_corruption_and_its_oops_are_one_splat() -> None:
    found = read(
        "list_del corruption. next->prev should be ffff8801d8caa528, but was ffffffff868a8010",
        "------------[ cut here ]------------",
        "kernel BUG at lib/list_debug.c:56!",
        "invalid opcode: 0000 [#1] SMP",
        CPU,
        *trace("__list_del_entry_valid", "feed_one"),
        END,
    )
    assert found.title == "list_del corruption in feed_one"
