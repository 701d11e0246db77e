# SPDX-License-Identifier: GPL-2.0-only
"""Modules of a guest: load them with parameters, unload them, also by force.

A command that fails raises CommandFailed, unless ``check`` is False.
"""

import shlex

from harness.guest.guest import Guest, Step


def load(guest: Guest, name: str, *, check: bool = True, **parameters: str | int) -> Step:
    """Run modprobe with the module's parameters."""
    words = [name, *(f"{key}={value}" for key, value in parameters.items())]
    return guest.step(f"modprobe {shlex.join(words)}", check=check)


def unload(guest: Guest, name: str, *, force: bool = False, check: bool = True) -> Step:
    """Run rmmod; ``force`` ignores the reference count (CONFIG_MODULE_FORCE_UNLOAD)."""
    return guest.step(f"rmmod {'-f ' if force else ''}{shlex.quote(name)}", check=check)
