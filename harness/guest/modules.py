# SPDX-License-Identifier: GPL-2.0-only
"""Modules of a guest: loaded with parameters, unloaded, unloaded by force."""

import shlex

from harness.guest.guest import Guest, Step


def load(guest: Guest, name: str, **parameters: str | int) -> Step:
    """modprobe, with the module's parameters."""
    words = [name, *(f"{key}={value}" for key, value in parameters.items())]
    return guest.step(f"modprobe {shlex.join(words)}")


def unload(guest: Guest, name: str, *, force: bool = False) -> Step:
    """rmmod; with ``force`` whatever its reference count is (CONFIG_MODULE_FORCE_UNLOAD)."""
    return guest.step(f"rmmod {'-f ' if force else ''}{shlex.quote(name)}")
