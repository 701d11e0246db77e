# SPDX-License-Identifier: GPL-2.0-only
"""Reports that open with several lines."""

from tests.unit.crashlog import CPU, END, read, trace


def test_opening_lines_of_inlined_functions_make_one_splat() -> None:
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


def test_wrapped_opening_lines_of_inlined_functions_are_joined() -> None:
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
