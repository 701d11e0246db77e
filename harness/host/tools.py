# SPDX-License-Identifier: GPL-2.0-only
"""The programs that a host needs, and the Debian package of each.

This module uses only the standard library, because ``ci/setup`` runs it before anything is
installed.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tool:
    """A program or file that a host needs. ``name`` is shown to users, ``package`` is the Debian
    package with it, and ``use`` is its purpose."""

    name: str
    package: str
    use: str
    present: Callable[[], bool]


def search_path() -> str:
    """PATH extended by /usr/sbin and /sbin, where Debian has depmod and which a user's
    PATH lacks."""
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def find(program: str) -> str | None:
    """The path of a program, or None if it is not installed."""
    return shutil.which(program, path=search_path())


def _program(name: str, package: str, use: str) -> Tool:
    return Tool(name, package, use, lambda: find(name) is not None)


def _file(path: str | Path, package: str, use: str) -> Tool:
    return Tool(str(path), package, use, lambda: Path(path).exists())


def _openssl_header() -> bool:
    return any(
        (Path("/usr/include") / part / "openssl/opensslconf.h").exists()
        for part in (".", "x86_64-linux-gnu", "aarch64-linux-gnu")
    )


CROSS = "aarch64-linux-gnu-"
CROSS_SYSROOT = Path("/usr/aarch64-linux-gnu")

TOOLS = (
    _program("qemu-system-aarch64", "qemu-system-arm", "runs the guests"),
    _program(CROSS + "gcc", "gcc-aarch64-linux-gnu", "compiles kernels and guest programs"),
    _file(
        CROSS_SYSROOT / "include/stdio.h", "libc6-dev-arm64-cross", "links static guest programs"
    ),
    _program("gcc", "gcc", "compiles the kernel's build tools"),
    _file("/usr/include/stdio.h", "libc6-dev", "compiles the kernel's build tools"),
    _program("make", "make", "builds kernels"),
    _program("flex", "flex", "builds the kernel's configuration tool"),
    _program("bison", "bison", "builds the kernel's configuration tool"),
    _program("bc", "bc", "generates kernel headers"),
    _file("/usr/include/libelf.h", "libelf-dev", "builds the kernel's own tools"),
    Tool("openssl headers", "libssl-dev", "builds the kernel's own tools", _openssl_header),
    _program("xz", "xz-utils", "unpacks kernel sources"),
    _program("git", "git", "applies patches"),
    _program("depmod", "kmod", "indexes kernel modules"),
    _program("dtc", "device-tree-compiler", "compiles device-tree overlays"),
    _program("ccache", "ccache", "makes a rebuild take seconds"),
    _program("apt-get", "apt", "fetches kernel sources and arm64 packages"),
    _program("dpkg-deb", "dpkg", "unpacks packages"),
    _program("setpriv", "util-linux", "ties QEMU and builds to this process"),
    _file(
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
        "verifies Debian packages",
    ),
)

# Required by some options only; doctor does not check for them.
SPECIAL = (
    _program("clang", "clang", "compiles kernels with --llvm"),
    _program("ld.lld", "lld", "links kernels with --llvm"),
    _program("llvm-ar", "llvm", "builds kernels with --llvm"),
    _program("zstd", "zstd", "unpacks prebuilt modules"),
)

# Required only to create the virtual environment: pip compiles pylibfdt.
_PYTHON = (
    Tool(
        "python venv",
        "python3-venv",
        "creates the virtual environment",
        lambda: importlib.util.find_spec("ensurepip") is not None,
    ),
    Tool(
        "Python.h",
        "python3-dev",
        "compiles pylibfdt",
        (Path(sysconfig.get_path("include")) / "Python.h").exists,
    ),
)


def missing(tools: tuple[Tool, ...] = TOOLS) -> list[Tool]:
    """The tools that are not installed on this host."""
    return [tool for tool in tools if not tool.present()]


def apt_command(tools: list[Tool]) -> str:
    """The command that installs ``tools`` on Debian."""
    packages = sorted({tool.package for tool in tools})
    return "apt-get install --no-install-recommends " + " ".join(packages)


if __name__ == "__main__":
    print(*sorted({tool.package for tool in missing(TOOLS + _PYTHON)}), file=sys.stdout)
