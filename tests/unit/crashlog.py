# SPDX-License-Identifier: GPL-2.0-only
"""Parts of crash logs, and helpers to build and parse them."""

from harness.klog import splat
from harness.klog.splat import Splat

CPU = "CPU: 1 PID: 71 Comm: sh Not tainted 6.12.117 #1"


END = "---[ end trace 0000000000000000 ]---"


def trace(*functions: str) -> list[str]:
    return ["Call trace:", *(f" {each}+0x10/0x200" for each in functions)]


def read(*lines: str) -> Splat:
    (found,) = splat.find(lines)
    return found


OOPS = "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000"
