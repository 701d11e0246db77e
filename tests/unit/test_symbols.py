# SPDX-License-Identifier: GPL-2.0-only
"""Source lines of call traces, in small kernels that the cross compiler builds."""

import contextlib
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import HostError
from harness.host import tools
from harness.kernel.artifact import Kernel
from harness.klog.frame import Chain, Frame
from harness.klog.splat import Splat
from harness.symbols import dwarf, image, objects, symbolise
from harness.symbols.image import Image
from harness.symbols.symbolise import Symbolised
from harness.symbols.symbols import Query, Symbols

RELEASE = "6.12.0"
SOURCE = """
int shared; extern int other(int);
static inline __attribute__((always_inline)) int deepest(int x) {
    return other(x) + 1;
}
static inline __attribute__((always_inline)) int deep(int x) {
    shared += deepest(x);
    return x;
}
__attribute__((noinline)) static int local(int x) { return deep(x) + other(shared); }
int outer(int x) {
    int y = local(x);
    if (x == 5) return other(y);
    return deep(y) + deepest(x);
}
int __attribute__((section(".init.text"))) at_boot(void) { return local(other(1)); }
__attribute__((noinline)) int other(int x) { asm volatile("nop"); return x + shared; }
"""


def compiled(path: Path, text: str = SOURCE, *options: str) -> Path:
    source = path.with_suffix(".c")
    source.write_text(text)
    words = [
        tools.CROSS + "gcc",
        "-c",
        "-O2",
        "-fno-optimize-sibling-calls",
        *options,
        "-o",
        str(path),
        str(source),
    ]
    subprocess.run(words, check=True)
    return path


def linked(path: Path, *parts: Path) -> Path:
    words = [tools.CROSS + "ld", "--build-id", "--entry=0", "-o", str(path), *map(str, parts)]
    subprocess.run(words, check=True)
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOMMU_HARNESS_CACHE", str(tmp_path / "cache"))


def kernel_of(tmp_path: Path, *options: str, text: str = SOURCE) -> Kernel:
    """Build a kernel with a vmlinux that is linked from one object."""
    linked(tmp_path / "vmlinux", compiled(tmp_path / "main.o", text, *options))
    return Kernel("key", "debian:6.12", RELEASE, "gcc", tmp_path)


def frame_of(kernel: Kernel, function: str, offset: int | None = None) -> Frame:
    """Create a frame at ``offset`` of the function, by default after its first call."""
    elf = image.read(kernel.directory / "vmlinux")
    (found,) = elf.functions[function]
    if offset is None:
        offset = next(
            each for each in range(4, found.size, 4) if image.follows_call(elf, found, each)
        )
    return Frame(function, offset, found.room or found.size)


def splat_of(*frames: Frame, text: tuple[str, ...] = (), kernel: str = RELEASE) -> Splat:
    chains = (Chain("call trace", frames),)
    return Splat("WARNING", "", "", 0, "", kernel, (), text, chains=chains)


def decoded(kernel: Kernel, *frames: Frame, text: tuple[str, ...] = ()) -> Symbolised:
    return symbolise.symbolised(splat_of(*frames, text=text), kernel)


def addr2line(path: Path, addresses: list[int]) -> list[list[tuple[str, str]]]:
    """The functions and source lines that addr2line prints for each address."""
    words = [tools.CROSS + "addr2line", "-a", "-i", "-f", "-e", str(path)]
    lines = "\n".join(map(hex, addresses))
    done = subprocess.run(words, input=lines, text=True, capture_output=True, check=True)
    blocks = re.split(r"^0x[0-9a-f]+\n", done.stdout, flags=re.MULTILINE)[1:]
    return [
        [
            (name, re.sub(r" \(disc.*|.*/", "", place))
            for name, place in zip(block.splitlines()[::2], block.splitlines()[1::2], strict=True)
        ]
        for block in blocks
    ]


def spans(elf: Image) -> dict[str, tuple[int, int]]:
    found = (each for named in elf.functions.values() for each in named if each.size)
    return {objects.key(each): (each.start, each.start + each.size) for each in found}


def test_preceding_returns_the_function_before_another(tmp_path: Path) -> None:
    path = kernel_of(tmp_path).directory / "vmlinux"
    functions = [each for named in image.read(path).functions.values() for each in named]
    pairs = [
        (one.name, other.name)
        for one in functions
        for other in functions
        if one.section == other.section and one.room and one.start + one.room == other.start
    ]
    assert pairs
    assert [image.preceding(path, other) for _, other in pairs] == [[one] for one, _ in pairs]
    assert image.preceding(path, "absent") == image.preceding(tmp_path / "absent", "local") == []


@pytest.mark.parametrize("options", [("-g",), ("-g", "-gdwarf-4"), ("-g", "-Os"), ("-g3",)])
def test_source_lines_of_all_instructions_match_addr2line(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = linked(tmp_path / "vmlinux", compiled(tmp_path / "main.o", SOURCE, *options))
    elf = image.read(path)
    tables = objects.of_linked(elf, [each for named in elf.functions.values() for each in named])
    compared = 0
    for name, (start, end) in spans(elf).items():
        theirs = addr2line(path, list(range(start, end, 4)))
        mine = [tables[name].at(offset) for offset in range(0, end - start, 4)]
        plain = [[(f, f"{Path(p[0]).name}:{p[1]}") for f, p in places] for places in mine]
        assert plain == theirs
        compared += len(mine)
    assert compared > 30


def test_a_recompiled_object_provides_the_tables_of_the_kernel(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path)
    vmlinux = image.read(kernel.directory / "vmlinux")
    (tmp_path / "again").mkdir()
    again = compiled(tmp_path / "again/main.o", SOURCE, "-g")
    known = objects._tables_of("main.o", vmlinux, again)
    functions = [each for n in ("outer", "local", "at_boot") for each in vmlinux.functions[n]]
    assert {*map(objects.key, functions)} <= known.tables.keys()
    (outer,) = vmlinux.functions["outer"]
    innermost = known.tables[objects.key(outer)].at(outer.size - 8)
    assert innermost[-1][0] == "outer"


def test_a_recompiled_function_with_different_code_has_no_table(tmp_path: Path) -> None:
    vmlinux = image.read(kernel_of(tmp_path).directory / "vmlinux")
    (tmp_path / "again").mkdir()
    text = SOURCE.replace("x == 5", "x == 6")
    known = objects._tables_of("main.o", vmlinux, compiled(tmp_path / "again/main.o", text, "-g"))
    names = {name.rsplit(":", 1)[1] for name in known.tables}
    assert "outer" not in names
    assert "local" in names


def test_symbolised_inserts_inlined_functions_above_their_frame(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, "-g")
    done = decoded(kernel, frame_of(kernel, "local"))
    (chain,) = done.splat.chains
    assert [each.function for each in chain.frames] == ["deepest", "deep", "local"]
    assert [each.inline for each in chain.frames] == [True, True, False]
    assert [each.place.rsplit("/", 1)[-1] for each in chain.frames] == [
        "main.c:4",
        "main.c:7",
        "main.c:10",
    ]
    assert (done.known, done.total, done.reason) == (1, 1, "")
    assert symbolise.line(chain.frames[0]).endswith("main.c:4) [inline]")


def test_text_annotates_a_splat_with_source_lines(tmp_path: Path) -> None:
    """The format is that of scripts/decode_stacktrace.sh: inlined functions are inserted above a
    frame, and the source line is appended to it."""
    kernel = kernel_of(tmp_path, "-g")
    frame = frame_of(kernel, "local")
    printed = f" local+{frame.offset:#x}/{frame.size:#x}"
    plain = decoded(kernel, frame).splat
    first, second, *kept = symbolise.text(
        replace(plain, text=(printed, "Code: 0 1", " gone+0x1/0x2"))
    )
    assert re.fullmatch(r" deepest \(\S*main.c:4\) \[inline\]", first)
    assert re.fullmatch(r" deep \(\S*main.c:7\) \[inline\]", second)
    assert re.fullmatch(re.escape(printed) + r" \(\S*main.c:10\)", kept[0])
    assert kept[1:] == ["Code: 0 1", " gone+0x1/0x2"]


def test_grouped_groups_splats_by_title_and_call_traces(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, "-g")
    one = decoded(kernel, frame_of(kernel, "local")).splat
    other = decoded(kernel, frame_of(kernel, "outer")).splat
    again = replace(one, pid=7, text=("other words",))
    assert symbolise.grouped([one, other, again]) == [[one, again], [other]]


def test_symbol_tables_are_cached_and_recomputed_if_damaged(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, "-g")
    first = decoded(kernel, frame_of(kernel, "local"))
    symbolise._symbols.cache_clear()
    linked(tmp_path / "vmlinux", compiled(tmp_path / "main.o"))  # without -g
    assert decoded(kernel, frame_of(kernel, "local")) == first
    damaged = next((tmp_path / "cache/symbols").glob("*/tables.json"))
    damaged.write_text("[]")
    symbolise._symbols.cache_clear()
    assert "has no debug information" in decoded(kernel, frame_of(kernel, "local")).reason


def test_only_dump_backtrace_has_a_source_line_at_offset_zero(tmp_path: Path) -> None:
    """No call returns to the start of a function, but arm64 traces up to 5.15 begin with
    dump_backtrace+0x0."""
    kernel = kernel_of(tmp_path, "-g", text=SOURCE.replace("local", "dump_backtrace"))
    start, other = (frame_of(kernel, name, 0) for name in ("dump_backtrace", "outer"))
    (chain,) = decoded(kernel, start, other).splat.chains
    assert chain.frames[0].place.endswith("main.c:10")
    assert chain.frames[1].place == "?"


def test_a_return_address_resolves_to_the_preceding_call(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, "-g")
    each = frame_of(kernel, "outer")
    assert each.offset is not None
    assert each.size is not None
    symbols = Symbols(kernel, None, False)
    query = Query("outer", each.offset, each.size, "", False)
    exact = replace(query, exact=True, offset=each.offset - 4)
    answers = symbols.answers([query, exact])
    assert answers[query].places == answers[exact].places


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 0x1000}, "local does not have size 0x1000 in this kernel"),
        ({"function": "nothing"}, "the kernel has no function nothing"),
        ({"module": "nvme"}, "the kernel has no module nvme"),
        ({"offset": 0}, "local+0x0 does not follow a call in this kernel"),
        ({"offset": 1 << 60}, f"local+{1 << 60:#x} does not follow a call in this kernel"),
        ({"offset": None}, "local has no offset and size"),
        ({"size": None}, "local has no offset and size"),
    ],
)
def test_a_mismatched_frame_has_no_source_line(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    kernel = kernel_of(tmp_path, "-g")
    done = decoded(kernel, replace(frame_of(kernel, "local"), **change))  # type: ignore[arg-type]
    assert [each.place for each in done.splat.chains[0].frames] == ["?"]
    assert (done.known, done.reason) == (0, reason)


def test_functions_of_the_same_name_and_size_have_no_source_line(tmp_path: Path) -> None:
    twin = "extern int other(int);\nint NAME(int x) { return 2 * local(x); }\n"
    local = "__attribute__((noinline)) static int local(int x) { return other(x) + 7; }\n"
    first = compiled(tmp_path / "a.o", local + twin.replace("NAME", "a"), "-g")
    second = compiled(tmp_path / "b.o", "\n" + local + twin.replace("NAME", "b"), "-g")
    last = compiled(tmp_path / "c.o", "int other(int x) { return x; }", "-g")
    linked(tmp_path / "vmlinux", first, second, last)
    kernel = Kernel("key", "debian:6.12", RELEASE, "gcc", tmp_path)
    elf = image.read(tmp_path / "vmlinux")
    one, another = elf.functions["local"]
    assert one.room == another.room
    offset = next(each for each in range(4, one.size, 4) if image.follows_call(elf, one, each))
    done = decoded(kernel, Frame("local", offset, one.room))
    assert done.reason == "2 functions with the name local have this size"


def test_symbolised_suggests_debuginfo_for_a_kernel_without_debug_information(
    tmp_path: Path,
) -> None:
    kernel = kernel_of(tmp_path)
    done = decoded(kernel, frame_of(kernel, "local"))
    assert "debian:6.12 has no debug information" in done.reason
    assert "--variant debuginfo" in done.reason


@pytest.mark.parametrize(
    ("line", "architecture"),
    [
        ("RIP: 0010:local+0x10/0x20", "x86"),
        ("PC is at local+0x10/0x20", "32-bit arm"),
        ("epc : local+0x10/0x20", "riscv"),
    ],
)
def test_symbolised_does_not_decode_a_log_of_another_architecture(
    tmp_path: Path, line: str, architecture: str
) -> None:
    kernel = kernel_of(tmp_path, "-g")
    done = decoded(kernel, frame_of(kernel, "local"), text=(line,))
    assert (done.known, done.reason) == (
        0,
        f"the log is from {architecture}, but debian:6.12 is arm64",
    )


def test_symbolised_does_not_decode_a_log_of_another_release(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, "-g")
    splat = splat_of(frame_of(kernel, "local"), kernel="6.3.0-rc1")
    done = symbolise.symbolised(splat, kernel)
    assert done.reason == "the log is from 6.3.0-rc1, but debian:6.12 is 6.12.0"
    assert done.splat == splat


def test_symbolised_does_not_decode_a_log_with_another_build_id(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, "-g")
    each = frame_of(kernel, "local")
    mine = image.read(tmp_path / "vmlinux").build_id
    line = "CPU: 0 UID: 0 PID: 1 Comm: sh Not tainted 6.12.0 #1 PREEMPT {}"
    assert decoded(kernel, each, text=(line.format(mine),)).known == 1
    other = "ab" * 20
    done = decoded(kernel, each, text=(line.format(other),))
    assert done.known == 0
    assert other in done.reason
    assert mine in done.reason


@pytest.mark.parametrize("suffix", ["(P)", "(FP)", "(PK)"])
def test_a_marked_frame_contains_an_exact_program_counter(tmp_path: Path, suffix: str) -> None:
    kernel = kernel_of(tmp_path, "-g")
    each = frame_of(kernel, "other", 0)
    assert decoded(kernel, each).known == 0
    line = f" {symbolise.line(each)} {suffix}"
    assert decoded(kernel, each, text=(line,)).known == 1


@pytest.mark.parametrize("vector", ["el1h_64_irq", "el1_irq", "el1h_64_sync"])
def test_a_frame_below_an_exception_vector_contains_an_exact_program_counter(
    tmp_path: Path, vector: str
) -> None:
    kernel = kernel_of(tmp_path, "-g")
    done = decoded(kernel, Frame(vector, 0x10, 0x20), frame_of(kernel, "other", 0))
    assert done.known == 1


def test_symbolised_decodes_a_frame_in_a_guest_module(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path)
    modules = tmp_path / "guest-modules"
    modules.mkdir()
    main = compiled(tmp_path / "main-of-module.o", SOURCE, "-g")
    words = [tools.CROSS + "ld", "-r", "--build-id", "-o", str(modules / "my-client.ko"), str(main)]
    subprocess.run(words, check=True)
    elf = image.read(modules / "my-client.ko")
    (local,) = elf.functions["local"]
    offset = next(each for each in range(4, local.size, 4) if image.follows_call(elf, local, each))
    each = Frame("local", offset, local.room, "my_client")
    done = decoded(kernel, each)
    assert [f.function for f in done.splat.chains[0].frames] == ["deepest", "deep", "local"]
    assert decoded(kernel, replace(each, build_id=elf.build_id)).known == 1
    assert decoded(kernel, replace(each, build_id="00" * 20)).known == 0


@given(st.data())
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_damaged_debug_information_raises_only_host_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged-vmlinux"
    if not path.exists():
        linked(path, compiled(path.with_suffix(".o"), SOURCE, "-g"))
    elf = image.read(path)
    content = bytearray(path.read_bytes())
    places = [each.data for each in elf.sections if each.name.startswith(".debug_")]
    start = content.find(bytes(data.draw(st.sampled_from(places))))
    for _ in range(data.draw(st.integers(1, 8))):
        content[start + data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    broken = path.with_name("broken-vmlinux")
    broken.write_bytes(content)
    with contextlib.suppress(HostError):
        dwarf.tables(broken, spans(elf))
