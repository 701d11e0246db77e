# SPDX-License-Identifier: GPL-2.0-only
"""One splat in every format of a kernel log; each format parses to the same splat."""

import io
import json
import quopri
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.klog import log, message, splat
from harness.klog.splat import Splat

REPORT = """\
e1000e 0000:00:05.0 eth0: NIC Link is Up 1000 Mbps Full Duplex, Flow Control: None
------------[ cut here ]------------
WARNING: CPU: 0 PID: 71 at drivers/iommu/iommu.c:940 iommu_group_release+0x38/0x60
Modules linked in: arm_smmu_v3 iommu_client(O)
CPU: 0 UID: 0 PID: 71 Comm: kworker/u8:0 Tainted: G        W  O       6.12.117 #1
Hardware name: linux,dummy-virt (DT)
pstate: 60400005 (nZCv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)
pc : iommu_group_release+0x38/0x60
lr : kobject_put+0x78/0x120
sp : ffff800083d4bb50
x29: ffff800083d4bb50 x28: ffff000003ac0000 x27: 0000000000000000
Call trace:
 iommu_group_release+0x38/0x60 (P)
 kobject_put+0x78/0x120
 iommu_group_remove_device+0x90/0xd0 [iommu_client]
 really_probe+0xc0/0x390
---[ end trace 0000000000000000 ]---
iommu_client b000000.client0: bound""".splitlines()
EXPECTED = ("WARNING", "iommu_group_release", "iommu_group_remove_device", 940, "6.12.117", "GWO")


def stamped(lines: list[str], before: str = "", caller: str = "") -> list[str]:
    return [f"{before}[{7.2 + i / 1e4:12.6f}]{caller} {each}" for i, each in enumerate(lines)]


def as_json(lines: list[str]) -> list[str]:
    out = ["{", '   "dmesg": [', "      {"]
    for number, each in enumerate(lines):
        out += ['         "pri": 4,', f'         "time":  {number:9.6f},']
        out += [f'         "msg": {json.dumps(each)}', "      },{"]
    return [*out, "      }", "   ]", "}"]


def wrapped(lines: list[str], width: int = 72) -> list[str]:
    """Stamp the lines, and break them as mail programs do: at the last space that fits."""
    out = []
    for line in stamped(lines):
        rest = line
        while len(rest) > width and " " in rest[16:width]:
            at = rest.rindex(" ", 16, width)
            out.append(rest[:at])
            rest = rest[at + 1 :]
        out.append(rest)
    return out


def quoted_printable(lines: list[str]) -> list[str]:
    """The body of a mail as it is sent (RFC 2045)."""
    return quopri.encodestring("\n".join(lines).encode()).decode().splitlines()


def interleaved(lines: list[str]) -> list[str]:
    """Interleave the splats of two CPUs and the messages of another task, line by line."""
    other = [each.replace("iommu_group_release", "vfio_group_release") for each in lines]
    out = []
    for mine, its in zip(
        stamped(lines, caller="[   T71]"), stamped(other, caller="[    C1]"), strict=True
    ):
        out += [mine, its, "[    9.000000][  T900] e1000e: quiet words"]
    return out


FORMATS: dict[str, Callable[[list[str]], list[str]]] = {
    "texts": lambda lines: lines,
    "dmesg": stamped,
    "dmesg -T": lambda lines: [f"[Mon Nov 30 04:49:16 2026] {each}" for each in lines],
    "dmesg -x": lambda lines: stamped(lines, "kern  :warn  : "),
    "dmesg -x without times": lambda lines: [f"kern  :warn  : {each}" for each in lines],
    "dmesg -r": lambda lines: stamped(lines, "<4>"),
    "dmesg -r without times": lambda lines: [f"<4>{each}" for each in lines],
    "dmesg --json": as_json,
    "dmesg --time-format iso": lambda lines: [
        f"2026-11-30T04:49:16,123456+00:00 {each}" for each in lines
    ],
    "dmesg -H": lambda lines: [f"[Nov30 04:49] {each}" for each in lines],
    "dmesg -H, later lines": lambda lines: [f"[  +0.000012] {each}" for each in lines],
    "/dev/kmsg": lambda lines: [f"4,{1000 + i},7227900,-;{each}" for i, each in enumerate(lines)],
    "/dev/kmsg with callers": lambda lines: [
        f"4,{1000 + i},7227900,-,caller=T71;{each}" for i, each in enumerate(lines)
    ],
    "PRINTK_CALLER": lambda lines: stamped(lines, caller="[   T71]"),
    "syslog": lambda lines: stamped(lines, "Nov 30 04:49:16 host kernel: "),
    "syslog without stamps": lambda lines: [
        f"Nov 30 04:49:16 host kernel: {each}" for each in lines
    ],
    "syslog, ISO": lambda lines: stamped(lines, "2026-11-30T04:49:16.123456+00:00 host kernel: "),
    "journalctl -o short-monotonic": lambda lines: [
        f"[    7.227900] host kernel: {each}" for each in lines
    ],
    "journalctl -o json": lambda lines: [
        json.dumps({"PRIORITY": "4", "MESSAGE": each, "_TRANSPORT": "kernel"}) for each in lines
    ],
    "logcat": lambda lines: stamped(lines, "11-30 04:49:16.123     0     0 W KERNEL  : "),
    "LAVA": lambda lines: stamped(lines, "2026-11-30T04:49:16.123456  "),
    "LAVA's YAML": lambda lines: [
        json.dumps({"dt": "2026-11-30T04:49:16", "lvl": "target", "msg": each})
        for each in stamped(lines)
    ],
    "a clock": lambda lines: stamped(lines, "04:49:16.123 "),
    "serial": lambda lines: [f"{each}\r" for each in stamped(lines)],
    "serial with progress": lambda lines: [f"  5%\r{each}\r" for each in stamped(lines)],
    "colours": lambda lines: [f"\x1b[32m{each}\x1b[0m" for each in stamped(lines)],
    "colours, times only": lambda lines: [
        f"\x1b[32m[    7.227900] \x1b[0m\x1b[1m{each}\x1b[0m" for each in lines
    ],
    "mail": lambda lines: [f"> {each}" for each in stamped(lines)],
    "mail, twice": lambda lines: [f">> {each}" for each in stamped(lines)],
    "mail, twice with a space": lambda lines: [f"> > {each}" for each in stamped(lines)],
    "mail without stamps": lambda lines: [f"> {each}" for each in lines],
    "mail, wrapped": wrapped,
    "mail, wrapped and quoted": lambda lines: [f">> {each}" for each in wrapped(lines)],
    "no-break spaces": lambda lines: [each.replace("  ", "\xa0 ") for each in stamped(lines)],
    "indented": lambda lines: [f"    {each}" for each in stamped(lines)],
    "indented texts": lambda lines: [f"    {each}" for each in lines],
    "HTML": lambda lines: [
        each.replace("<", "&lt;").replace(">", "&gt;") for each in stamped(lines)
    ],
    "dropped": lambda lines: stamped(lines, "** 93 printk messages dropped ** "),
    "behind a prompt": lambda lines: stamped(lines, "localhost login: "),
    "quoted-printable": lambda lines: quoted_printable(stamped(lines, "Nov  8 19:31:24 kernel: ")),
    "quoted-printable, quoted": lambda lines: quoted_printable([f"> {each}" for each in lines]),
    "interleaved": interleaved,
}


def read(lines: list[str]) -> list[Splat]:
    return list(log.splats([("\n".join(lines) + "\n").encode()]))


@pytest.mark.parametrize("log_format", FORMATS)
def test_splats_parses_the_same_splat_in_every_format(log_format: str) -> None:
    found = read(FORMATS[log_format](REPORT))
    first = found[0]
    assert len(found) == (2 if log_format == "interleaved" else 1)
    assert (
        first.kind,
        first.function,
        first.caller,
        first.line,
        first.kernel,
        first.taint,
    ) == EXPECTED
    assert (first.cpu, first.pid, first.comm) == (0, 71, "kworker/u8:0")
    assert first.frames == (
        "iommu_group_release",
        "kobject_put",
        "iommu_group_remove_device",
        "really_probe",
    )
    assert not first.cut
    assert first.pc
    assert first.lr
    assert (first.pc.function, first.lr.function) == ("iommu_group_release", "kobject_put")


@pytest.mark.parametrize("log_format", ["texts", "dmesg", "mail, twice", "indented"])
def test_find_returns_the_same_splat_as_splats(log_format: str) -> None:
    lines = FORMATS[log_format](REPORT)
    (streamed,), (found,) = read(lines), splat.find(lines)
    assert (found.first, found.last) == (2, 16)
    assert (streamed.first, streamed.last) == (3, 17)
    assert found.text == streamed.text
    assert lines[found.first].endswith(found.text[0].strip())


def test_splats_reads_utf_16_and_tolerates_latin_1() -> None:
    text = "\n".join(REPORT)
    assert [each.function for each in log.splats([text.encode("utf-16")])] == [
        "iommu_group_release"
    ]
    noise = b"\xe4\xf6\xfc\x00\xff line\n" + text.encode() + b"\n\xff\xfe\n"
    assert [each.function for each in log.splats([noise])] == ["iommu_group_release"]


def test_splats_separates_two_interleaved_splats() -> None:
    mine, its = read(interleaved(REPORT))
    assert (mine.function, its.function) == ("iommu_group_release", "vfio_group_release")
    assert mine.interleaved
    assert its.frames[2:] == mine.frames[2:]
    assert not any("quiet words" in each for each in (*mine.text, *its.text))


@pytest.mark.parametrize("length", range(4, 17))
def test_a_truncated_splat_keeps_its_kind_and_function(length: int) -> None:
    (found,) = read(stamped(REPORT[:length]))
    assert (found.kind, found.function, found.cut) == ("WARNING", "iommu_group_release", True)
    booted = [*REPORT[:length], "Booting Linux on physical CPU 0x0000000000 [0x410fd034]"]
    (found,) = read(stamped([*booted, " kobject_put+0x78/0x120"]))
    assert found.cut
    assert found.last == length


def test_a_pasted_splat_without_an_end_mark_is_not_cut() -> None:
    (found,) = read([*REPORT[:16], "", *["This is what I see."] * 40])
    assert not found.cut
    assert found.last == 16


LENGTHS = st.integers(0, len("\n".join(REPORT)))


@given(LENGTHS)
def test_splats_accepts_a_log_that_is_truncated_anywhere(length: int) -> None:
    for found in log.splats(["\n".join(REPORT).encode()[:length]]):
        assert found.kind == "WARNING"
        assert 0 < found.first <= found.last <= len(REPORT)


@settings(deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.randoms())
def test_splats_parses_two_formats_in_one_log(log_format: str, chance: random.Random) -> None:
    other = chance.choice(["dmesg", "mail", "texts", "syslog"])
    lines = [*FORMATS[other](REPORT), *FORMATS[log_format](REPORT)]
    assert {each.function for each in read(lines)} <= {"iommu_group_release", "vfio_group_release"}
    assert len(read(lines)) == (3 if log_format == "interleaved" else 2)


HOSTILE = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.sampled_from([each.encode() for each in REPORT]),
        st.sampled_from([b"[    1.0] ", b"> ", b"\x1b[", b"\xff\xfe", b'"msg": "', b"\r", b"<4>"]),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(HOSTILE, st.sampled_from([b"\n", b"", b"\n\n"]))
def test_splats_in_hostile_bytes_have_lines_of_the_log(parts: list[bytes], end: bytes) -> None:
    data = end.join(parts)
    count = data.count(b"\n") + 1
    for found in log.splats(io.BytesIO(data)):
        assert 1 <= found.first <= found.last <= count
        assert found.text
        assert found.title
    assert all(1 <= each.number <= count for each in log.messages([data]))


@settings(deadline=None)
@given(HOSTILE, st.integers(1, 50))
def test_splats_does_not_depend_on_the_size_of_the_pieces(parts: list[bytes], size: int) -> None:
    data = b"\n".join(parts)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    if not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        assert list(log.splats(pieces)) == list(log.splats([data]))


@given(st.lists(st.text(max_size=80), max_size=80))
def test_splats_in_hostile_lines_have_indices_of_the_list(lines: list[str]) -> None:
    for found in splat.find(lines):
        assert 0 <= found.first <= found.last < len(lines)
        assert found.text


def test_messages_limits_the_length_of_a_line() -> None:
    pieces = [b"x" * (1 << 20) for _ in range(8)]
    lines = [each.text for each in log.messages([*pieces, b"\nWARNING: after\n"])]
    assert max(map(len, lines)) <= 1 << 14
    assert lines[-1] == "WARNING: after"


def test_splats_streams_the_log() -> None:
    """The first splat is returned before half of the log is read."""
    data = "\n".join(stamped(REPORT) + ["[    9.0] quiet"] * 200_000).encode()
    source = io.BytesIO(data)
    next(log.splats(source))
    following = "\n".join(stamped(REPORT)).encode() + data
    source = io.BytesIO(following)
    next(log.splats(source))
    assert source.tell() < len(following) // 2


def test_parse_reads_time_caller_and_level_of_a_message() -> None:
    found = message.parse("<4>[    7.227900][   T71] words", 3)
    assert found
    assert (found.text, found.number, found.time, found.caller, found.level) == (
        "words",
        3,
        7.2279,
        "T71",
        4,
    )


def test_splats_reads_a_json_log_with_a_needle_only_in_the_first_message() -> None:
    lines = [
        "BUG: KASAN: use-after-free in feed_one+0x1/0x2",
        "Read of size 4 at addr f0 by task sh/71",
        "CPU: 1 PID: 71 Comm: sh Not tainted 6.12.117 #1",
        "Call trace:",
        " feed_one+0x1/0x2",
        " feed_all+0x1/0x2",
    ]
    record = '      {{\n"pri": 4,\n"time": 4.1,\n"caller": "T71",\n"msg": "{}"\n      }},'
    (found,) = read([part for each in lines for part in record.format(each).split("\n")])
    assert (found.function, found.caller, found.pid) == ("feed_one", "feed_all", 71)


LEAK = """unreferenced object 0xffff00000661f1a0 (size 32):
  comm "modprobe", pid 33, jiffies 4294674099
  hex dump (first 32 bytes):
    6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b  kkkkkkkkkkkkkkkk
  backtrace (crc 362c6625):
    kmemleak_alloc+0x74/0xb0
    {}+0x60/0x578 [feed]
    do_one_initcall+0xc0/0x444
"""


@pytest.mark.parametrize("prefix", ["", "kmemleak: "])
def test_each_object_that_kmemleak_lists_is_a_splat(prefix: str) -> None:
    text = LEAK.format("feed_one") + LEAK.format("feed_all")
    found = read([f"[    7.1] {prefix}{each}" for each in text.splitlines()])
    assert [(each.kind, each.function) for each in found] == [
        ("kmemleak", "feed_one"),
        ("kmemleak", "feed_all"),
    ]
    assert [(each.comm, each.pid, each.first, each.last) for each in found] == [
        ("modprobe", 33, 1, 8),
        ("modprobe", 33, 9, 16),
    ]
    # The count belongs to the splat above it, if there is one.
    count = "[    8.2] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)"
    assert [each.function for each in read([count])] == [""]
    both = read([*(f"[    7.1] kmemleak: {each}" for each in text.splitlines()), count])
    assert [each.last for each in both] == [8, 17]
