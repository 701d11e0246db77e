# SPDX-License-Identifier: GPL-2.0-only
"""Read from QEMU which functions a guest's CPUs execute. This works for a kernel that no longer
runs processes, for example because a CPU spins with interrupts disabled.

Frames are walked as the kernel does (arch/arm64/kernel/stacktrace.c): x29 points to the
previous frame, and the return address follows it.
"""

import bisect
import re

from harness.guest.guest import Guest
from harness.host import program, tools
from harness.kernel.artifact import Kernel

_CPU = re.compile(r"CPU#(\d+)")
_REGISTER = re.compile(r"\b(PC|X29|X30)=([0-9a-f]{16})")
_WORDS = re.compile(r"0x([0-9a-f]{16}) 0x([0-9a-f]{16})")
_DEPTH = 12


def traces(guest: Guest, kernel: Kernel) -> list[str]:
    """One line per CPU with its call trace, innermost function first. "?" stands for an address
    outside vmlinux. The list is empty for a kernel with KASLR or without a vmlinux. Raises as
    ``Guest.qmp`` does."""
    if kernel.option("RANDOMIZE_BASE") or not (kernel.directory / "vmlinux").exists():
        return []
    symbols = _symbols(kernel)
    parts = _CPU.split(guest.hmp("info registers -a"))
    found = []
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        registers = {name: int(value, 16) for name, value in _REGISTER.findall(text)}
        guest.hmp(f"cpu {number}")
        names = _functions(symbols, _addresses(guest, registers), registers.get("X30", 0))
        found.append(f"CPU {number} is in {' <- '.join(names)}")
    return found


def _functions(symbols: list[tuple[int, str]], found: list[int], link: int) -> list[str]:
    """The functions at the addresses, innermost first. A leaf function has no frame, so its
    caller is found by x30 (``link``)."""
    names = [_name(symbols, each) for each in found]
    caller = _name(symbols, link)
    if caller not in ("?", *names[:2]):
        names.insert(1, caller)
    while names and names[-1] == "?":
        names.pop()
    return names


def _addresses(guest: Guest, registers: dict[str, int]) -> list[int]:
    """The address after the instruction that the CPU executes, and those after the calls that
    led there."""
    found = [registers.get("PC", 0) + 4]
    frame = registers.get("X29", 0)
    while frame and len(found) < _DEPTH:
        words = _WORDS.search(guest.hmp(f"x/2gx {frame:#x}"))
        if words is None:
            break
        frame, address = (int(word, 16) for word in words.groups())
        found.append(address)
    return found


def _symbols(kernel: Kernel) -> list[tuple[int, str]]:
    """The functions of vmlinux, sorted by address."""
    printed = program.run([tools.CROSS + "nm", "-n", str(kernel.directory / "vmlinux")])
    rows = (line.split() for line in printed.splitlines())
    return [(int(row[0], 16), row[2]) for row in rows if len(row) == 3 and row[1] in "tTwW"]


def _name(symbols: list[tuple[int, str]], address: int) -> str:
    """The function that contains the byte before ``address``, because a return address follows
    the call; "?" if there is no such function."""
    index = bisect.bisect_left(symbols, (address, ""))
    if not 0 < index < len(symbols):
        return "?"
    return symbols[index - 1][1]
