# SPDX-License-Identifier: GPL-2.0-only
"""``prebuilt:DIR``: a kernel that was built elsewhere. DIR has an Image and its modules, or is an
unpacked kernel package of a distribution.

Of the thousands of modules in a distribution, only those that guests use are imported and
decompressed. The notes list what the kernel lacks compared with kernels that the harness builds.
"""

import gzip
import io
import lzma
import re
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.host import cache, manifest, paths, program
from harness.kernel import artifact, config, subject
from harness.kernel.artifact import Kernel

# Part of the key. Raise it when the steps below produce a different result.
_RECIPE = "1"

# The layouts of kbuild, of Debian up to 13 and Ubuntu, and of Debian after 13.
_IMAGES = (
    *("Image", "Image.gz", "vmlinuz", "arch/arm64/boot/Image"),
    *("boot/vmlinuz-*", "boot/Image*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz"),
)
_MODULES = ("lib/modules/*", "usr/lib/modules/*", "modules/*")
_PLAIN = ("Image", "Image.gz", "vmlinuz")  # names without the release
_INDEXES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
_CONFIGS = (
    "config",
    ".config",
    "boot/config-*",
    "lib/modules/*/config",
    "usr/lib/modules/*/config",
)

# These must be built in: a guest's channels need them before user space can load modules.
_SERIAL_PORTS = ("virtio_mmio", "virtio_console")

_MODULE = re.compile(r"(.+)\.ko(\.xz|\.gz|\.zst)?")

# Documentation/arch/arm64/booting.rst: the magic number of an Image, and its offset.
_MAGIC, _MAGIC_AT = b"ARM\x64", 56
_GZIP = b"\x1f\x8b"
_MAX_BYTES = 512 << 20  # decompressed; a distribution's Image has 50 MB
# drivers/firmware/efi/libstub/zboot-header.S: an EFI program that contains the Image.
_ZBOOT, _ZBOOT_AT = b"zimg", 4


@dataclass(frozen=True, slots=True)
class _Parts:
    """The files of a prebuilt kernel. ``modules`` becomes /lib/modules/RELEASE."""

    root: Path
    image: Path
    modules: Path
    config: Path | None

    @property
    def release(self) -> str:
        return self.modules.name


def kernel(where: str) -> Kernel:
    """Import the kernel in a directory into the cache, by its content. Raises UsageError if the
    directory has no arm64 kernel, or more than one."""
    root = paths.absolute(where)
    if not root.is_dir():
        raise UsageError(
            f"cannot read {root}: not a directory", "give a directory with an Image and its modules"
        )
    parts = _parts(root)
    used = _closure(parts)
    files = [*used, *(parts.modules / name for name in _INDEXES)]
    places = {str(file.relative_to(parts.modules)): file for file in files if file.is_file()}
    places |= {"Image": parts.image, **({"config": parts.config} if parts.config else {})}
    content = (f"{place} {manifest.key(file.resolve())}" for place, file in places.items())
    key = cache.digest(_RECIPE, parts.release, *content)
    label = f"prebuilt:{root} ({parts.release})"
    entry = cache.entry(
        "kernel", key, f"kernel {label}", lambda into: _import(parts, used, key, into)
    )
    return artifact.load(entry, label)


def _parts(root: Path) -> _Parts:
    images = [path for form in _IMAGES for path in sorted(root.glob(form)) if path.is_file()]
    modules = [path for form in _MODULES for path in sorted(root.glob(form)) if _has_index(path)]
    for found, what, forms in (
        (images, "Image", _IMAGES),
        (modules, "modules directory", _MODULES),
    ):
        if not found:
            raise UsageError(f"{root} has no {what}", f"it must have one of {', '.join(forms)}")
    fitting = [
        (image, directory)
        for image in images
        for directory in modules
        if directory in image.parents or image.name in _PLAIN or directory.name in image.name
    ]
    if len({directory for _, directory in fitting}) != 1:
        names = " and ".join(path.name for path in images)
        releases = " and ".join(path.name for path in modules)
        raise UsageError(
            f"cannot decide which kernel in {root} to use: it has {names}, and modules of"
            f" {releases}",
            "give a directory with one kernel",
        )
    image, directory = fitting[0]
    configs = [path for form in _CONFIGS for path in sorted(root.glob(form))]
    named = [path for path in configs if directory.name in str(path)] or configs
    return _Parts(root, image, directory, named[0] if named else None)


def _has_index(path: Path) -> bool:
    return (path / "modules.builtin").is_file() or (path / "kernel").is_dir()


def _module_name(path: Path) -> str:
    """The name of a module file as lsmod prints it, "" for any other file."""
    match = _MODULE.fullmatch(path.name)
    return match[1].replace("-", "_") if match else ""


def _files(modules: Path) -> dict[str, Path]:
    return {
        _module_name(path): path for path in sorted(modules.rglob("*.ko*")) if _module_name(path)
    }


def _closure(parts: _Parts) -> list[Path]:
    """The files of the modules that guests use, and of their dependencies."""
    files = _files(parts.modules)
    found: dict[str, Path] = {}
    waiting = [name for name in subject.MODULES if name in files]
    while waiting:
        name = waiting.pop()
        if name in found or name not in files:
            continue
        found[name] = files[name]
        waiting += _dependencies(files[name])
    return [found[name] for name in sorted(found)]


def _dependencies(file: Path) -> list[str]:
    """The modules on which a module depends (depends= in .modinfo)."""
    match = re.search(rb"\0depends=([\w,-]*)\0", _module_content(file))
    names = match[1].decode().split(",") if match else []
    return [name.replace("-", "_") for name in names if name]


def _import(parts: _Parts, used: list[Path], key: str, into: Path) -> None:
    (into / "Image").write_bytes(_image(parts.image))
    target = into / "modules" / parts.release
    for file in used:
        place = target / file.relative_to(parts.modules)
        name = _MODULE.fullmatch(place.name)
        assert name
        place.parent.mkdir(parents=True, exist_ok=True)
        (place.parent / f"{name[1]}.ko").write_bytes(_module_content(file))
    target.mkdir(parents=True, exist_ok=True)
    for index in _INDEXES:
        if (parts.modules / index).is_file():
            shutil.copy(parts.modules / index, target)
    (into / "config").write_text(_config(parts))
    (into / "guest-modules").mkdir()
    artifact.write(
        Kernel(
            key=key,
            label=f"prebuilt:{parts.root} ({parts.release})",
            release=parts.release,
            compiler="",
            directory=into,
            notes=tuple(_limitations(parts)),
            serial_ports=all(name in _builtin(parts) for name in _SERIAL_PORTS),
        )
    )


def _config(parts: _Parts) -> str:
    if parts.config is None:
        return "# prebuilt: the directory has no config\n"
    return parts.config.read_text(errors="replace")


def _builtin(parts: _Parts) -> set[str]:
    try:
        listing = (parts.modules / "modules.builtin").read_text(errors="replace")
    except OSError:
        return set()
    return {_module_name(Path(line)) for line in listing.splitlines()}


def _limitations(parts: _Parts) -> Iterator[str]:
    """Yield notes on what cannot be tested with the kernel."""
    builtin, present = _builtin(parts), _files(parts.modules)
    for name in subject.DRIVERS:
        if name in builtin:
            yield f"{name} is built in, so it cannot be loaded or removed"
        elif name not in present:
            yield f"{name} is missing"
    yield "no iommu_client, which requires a kernel's source: platform clients stay unbound"
    if not all(name in builtin for name in _SERIAL_PORTS):
        yield "no built-in virtio serial ports: commands share the kernel's console"
    if parts.config and not _has_forced_unloading(parts.config):
        yield "no forced unloading (MODULE_FORCE_UNLOAD)"


def _has_forced_unloading(file: Path) -> bool:
    return "MODULE_FORCE_UNLOAD" in config.values(file.read_text(errors="replace"))


def _image(file: Path) -> bytes:
    """Read and decompress an arm64 Image. Raises UsageError for any other file."""
    data = file.read_bytes()
    if data[_ZBOOT_AT : _ZBOOT_AT + 4] == _ZBOOT:
        start, size = (int.from_bytes(data[at : at + 4], "little") for at in (8, 12))
        data = _decompressed(data[start : start + size], file)
    elif data[:2] == _GZIP:
        data = _decompressed(data, file)
    if data[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise UsageError(
            f"{file} is not an arm64 kernel Image", "give a directory with an arm64 Image"
        )
    return data


def _module_content(file: Path) -> bytes:
    data = file.read_bytes()
    return data if file.suffix == ".ko" else _decompressed(data, file)


def _decompressed(data: bytes, file: Path) -> bytes:
    """Decompress data in the format that its magic number determines: gzip, xz or zstd."""
    opener = next((each for magic, each in _OPENERS.items() if data.startswith(magic)), None)
    if opener is None:
        raise UsageError(f"cannot decompress {file}: unknown format", "decompress it")
    try:
        plain = opener(data)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UsageError(f"cannot decompress {file}: {error}", "download it again") from None
    if len(plain) > _MAX_BYTES:
        raise UsageError(f"{file} is larger than 512 MiB", "give a different directory")
    return plain


def _gzip(data: bytes) -> bytes:
    return gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MAX_BYTES + 1)


def _xz(data: bytes) -> bytes:
    return lzma.LZMAFile(io.BytesIO(data)).read(_MAX_BYTES + 1)


def _zstd(data: bytes) -> bytes:
    with cache.scratch() as scratch:
        packed = scratch / "packed.zst"
        packed.write_bytes(data)
        program.run(["zstd", "-q", "-d", str(packed), "-o", str(scratch / "plain")])
        with (scratch / "plain").open("rb") as file:
            return file.read(_MAX_BYTES + 1)


_OPENERS = {_GZIP: _gzip, b"\xfd7zXZ\0": _xz, b"\x28\xb5\x2f\xfd": _zstd}
