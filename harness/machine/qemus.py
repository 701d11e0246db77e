# SPDX-License-Identifier: GPL-2.0-only
"""The QEMUs of ``--qemu``, and machines that run on several of them."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.machine import debian_qemu, qemu
from harness.machine.topology import Machine

_DEBIAN = "debian:"


@functools.cache
def program(choice: str) -> str:
    """The program of ``--qemu``: a path, a name, or the QEMU of ``debian:VERSION``, which is
    fetched if it is not in the cache.

    Raises UsageError if Debian has no such version, and HostError if the archive cannot be read.
    """
    if choice.startswith(_DEBIAN):
        return debian_qemu.path(choice.removeprefix(_DEBIAN))
    return choice


def check(choices: Iterable[str]) -> None:
    """Raise UsageError and HostError as ``program`` does, and as ``qemu.check_program`` does."""
    for choice in choices:
        qemu.check_program(program(choice))


def on_each(machines: Iterable[Machine], choices: Sequence[str]) -> list[Machine]:
    """Each machine on each QEMU. If there are several, the label of a machine has the version of
    its QEMU, or the choice itself if another QEMU has the same version.

    Raises UsageError and HostError as ``program`` does, and ToolMissing for a program that does
    not exist.
    """
    choices = list(dict.fromkeys(choices))
    labels = _labels(choices) if len(choices) > 1 else [""]
    return [
        replace(machine, qemu=program(choice), qemu_label=label)
        for machine in machines
        for choice, label in zip(choices, labels, strict=True)
    ]


def _labels(choices: Sequence[str]) -> list[str]:
    versions = [_version(program(choice)) for choice in choices]
    count = Counter(versions)
    return [
        version if count[version] == 1 else choice
        for choice, version in zip(choices, versions, strict=True)
    ]


def _version(path: str) -> str:
    text = qemu.version(path)
    match = re.search(r"version (\S+)", text)
    return match[1] if match else text
