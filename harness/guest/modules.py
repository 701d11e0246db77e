# SPDX-License-Identifier: GPL-2.0-only
"""Load and unload modules in a guest.

A command that fails raises CommandFailed, unless ``check`` is False.
"""

import shlex

from harness.guest.guest import Guest, Step


def load(guest: Guest, name: str, *, check: bool = True, **parameters: str | int) -> Step:
    """Load a module with these parameters (modprobe)."""
    words = [name, *(f"{key}={value}" for key, value in parameters.items())]
    return guest.step(f"modprobe {shlex.join(words)}", check=check)


def unload(guest: Guest, name: str, *, force: bool = False, check: bool = True) -> Step:
    """Unload a module (rmmod). ``force`` ignores its reference count, which requires
    CONFIG_MODULE_FORCE_UNLOAD."""
    return guest.step(f"rmmod {'-f ' if force else ''}{shlex.quote(name)}", check=check)
