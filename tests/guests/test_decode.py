# SPDX-License-Identifier: GPL-2.0-only
"""Source lines in call traces of real guests, compared with addr2line."""

import itertools
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.host import program, tools
from harness.kernel import worktree
from harness.kernel.artifact import Kernel
from harness.kernel.spec import KernelSpec
from harness.klog import frame
from harness.klog.frame import Chain, Frame
from harness.klog.splat import Splat
from harness.plugin.plugin import ExpectSplat, GuestFactory
from harness.symbols import image, store, symbolise

_MIN_FRAMES = 200  # distinct frames to compare

# Every Nth allocation of the commands fails and prints its call trace.
_INTERVALS = (5, 11, 23, 61)
_COMMANDS = (
    "modprobe arm-smmu-v3",
    "modprobe iommu-client",
    "modprobe e1000e",
    "ip link set eth0 up",
    "rmmod iommu-client",
    "rmmod e1000e",
    "ls -lR /sys/kernel/iommu_groups /sys/bus",
    "cat /proc/self/maps /proc/mounts /proc/modules /proc/interrupts",
    "sh -c 'echo a | cat | cat'",
    "mount -t tmpfs none /mnt",
    "ip link set lo up",
    "umount /mnt",
    "mkdir /tmp/a /tmp/a/b",
    "rm -r /tmp/a",
    "sync",
    "modprobe vfio-pci",
    "echo 0000:00:01.0 > /sys/bus/pci/drivers/e1000e/unbind",
    "ip addr add 192.0.2.1/24 dev lo",
    "mount -t sysfs none /mnt",
    "dd if=/dev/zero of=/tmp/zeros bs=64k count=1",
)
_FAILSLAB = "cd /sys/kernel/debug/failslab; echo 100 > probability;"
_FAILSLAB += " echo -1 > times; echo 2 > verbose; echo Y > task-filter; echo 0 > space;"
_FAILSLAB += " echo N > ignore-gfp-wait; echo 0 > verbose_ratelimit_interval_ms; cd /"


def traces(texts: Sequence[str]) -> tuple[Chain, ...]:
    """The call traces in the messages; consecutive frames form a trace."""
    parsed = map(frame.parse, texts)
    runs = itertools.groupby(parsed, key=lambda each: each is not None and each.size is not None)
    found = (tuple(filter(None, run)) for is_frame, run in runs if is_frame)
    return tuple(Chain("call trace", frames) for frames in found)


def splat_of(chains: tuple[Chain, ...], texts: tuple[str, ...], kernel: Kernel) -> Splat:
    return Splat("WARNING", "", "", 0, "", kernel.release, (), texts, chains=chains)


class Reference:
    """addr2line on the objects that contain a kernel's symbols."""

    def __init__(self, kernel: Kernel) -> None:
        self.images: dict[str, image.Image] = {}
        self.objects: dict[str, list[Path]] = {}
        for entry in store.entries(kernel):
            names = json.loads((entry.path / "functions.json").read_text())["functions"]
            path = entry.path / "object.elf"
            self.images[str(path)] = image.read(path)
            for name in {each.split(":", 2)[2] for each in names}:
                self.objects.setdefault(name, []).append(path)

    def places(self, each: Frame, subtracted: int) -> list[list[tuple[str, str]]]:
        """The source lines of a frame in each object that contains its function. ``subtracted`` is
        subtracted from its offset."""
        found = []
        for path in self.objects.get(each.function, ()):
            for function in self.images[str(path)].functions[each.function]:
                assert each.offset is not None
                found.append(addr2line(path, function.start + each.offset - subtracted))
        return found


def addr2line(path: Path, address: int) -> list[tuple[str, str]]:
    """Functions and source lines, innermost first."""
    words = [tools.CROSS + "addr2line", "-i", "-f", "-e", str(path), f"{address:#x}"]
    lines = program.run(words).splitlines()
    places = (re.sub(r" \(discriminator \d+\)", "", line) for line in lines[1::2])
    return list(zip(lines[::2], map(trimmed, places), strict=True))


def trimmed(place: str) -> str:
    below = rf".*/{worktree.DIRECTORY}/[^/]+/(source|objects/[^/]+)/"
    return re.sub(below, "", posixpath.normpath(place))


def test_symbolised_frames_match_addr2line(
    guest_factory: GuestFactory,
    kernel: Kernel,
    kernel_spec: KernelSpec,
    expect_splat: ExpectSplat,
) -> None:
    # Some error paths warn, depending on which allocation fails.
    expect_splat("* in *", sometimes=True)
    guest = guest_factory("smmuv3")
    guest.run("echo 1 > /proc/sys/kernel/sysrq; echo t > /proc/sysrq-trigger")
    guest.run("echo l > /proc/sysrq-trigger; sleep 100 & echo w > /proc/sysrq-trigger")
    guest.run(_FAILSLAB)
    for interval, words in itertools.product(_INTERVALS, _COMMANDS):
        guest.run(f"echo {interval} > /sys/kernel/debug/failslab/interval")
        guest.run(f"(echo 1 > /proc/self/make-it-fail; {words}) > /dev/null 2>&1")
    texts = tuple(record.text for record in guest.kmsg())
    before = traces(texts)
    splat = splat_of(before, texts, kernel)
    done = symbolise.symbolised(splat, kernel, kernel_spec, wait=True)
    interrupted = {line.removesuffix(" (P)").strip() for line in texts if line.endswith(" (P)")}
    # Up to 6.12 nothing marks the function that an exception interrupts.
    for chain in before:
        pairs = itertools.pairwise(chain.frames)
        interrupted |= {symbolise.line(each) for vector, each in pairs if is_vector(vector)}
    reference = Reference(kernel)
    compared: set[str] = set()
    wrong = []
    for old, new in zip(before, done.splat.chains, strict=True):
        for each, mine in groups(old, new):
            name = symbolise.line(each)
            if name in compared or mine[-1].place == "?":
                continue
            compared.add(name)
            exact = name in interrupted or each.offset == 0
            theirs = reference.places(each, 0 if exact else 1)
            places = [found.place for found in mine]
            if not any(agree(mine, there) for there in theirs):
                wrong.append((name, places, theirs))
    unknown = done.total - done.known
    print(f"{len(wrong)} of {len(compared)} frames differ; {unknown} of {done.total} unknown")
    assert wrong == []
    assert len(compared) >= _MIN_FRAMES
    assert unknown <= done.total / 20, done.reason


def is_vector(each: Frame) -> bool:
    """Whether the frame is the entry of an exception from the kernel (el1_sync in 5.10,
    el1h_64_sync since 5.14)."""
    return bool(re.fullmatch(r"el1(h_64)?_(sync|irq)", each.function))


def groups(before: Chain, after: Chain) -> Iterator[tuple[Frame, list[Frame]]]:
    """Yield each frame of ``before`` with the symbolised frames of its inlined functions, the
    frame itself last."""
    found = iter(after.frames)
    for each in before.frames:
        mine = [next(found)]
        while mine[-1].inline:
            mine.append(next(found))
        yield each, mine


def agree(mine: list[Frame], theirs: list[tuple[str, str]]) -> bool:
    """Whether all source lines and the names of inlined functions agree. The name of the last frame
    is not compared, because in the log it has the compiler's suffixes."""
    inlined = [(each.function, each.place) for each in mine[:-1]]
    return inlined == theirs[:-1] and mine[-1].place == theirs[-1][1]
