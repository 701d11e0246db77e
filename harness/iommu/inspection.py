# SPDX-License-Identifier: GPL-2.0-only
"""Inspect the object file of a driver without running it: whether it is a module, whether its
license permits the symbols that it imports, whether these are exported, and whether udev loads
the module for the devices that it supports.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.iommu.drivers import DRIVERS
from harness.kernel import config, elf
from harness.kernel.artifact import Kernel
from harness.kernel.elf import Object

# license_is_gpl_compatible(), include/linux/license.h.
_GPL = frozenset(
    {
        "GPL",
        "GPL v2",
        "GPL and additional rights",
        "Dual BSD/GPL",
        "Dual MIT/GPL",
        "Dual MPL/GPL",
    }
)

_DESCRIPTION = ("license", "vermagic", "depends", "description", "version", "srcversion")


@dataclass(frozen=True, slots=True)
class ImportedSymbol:
    """A symbol that a module imports.

    ``provider`` is vmlinux or the module that exports it, "" if it is not exported, or "?" if
    that is unknown because the kernel has no vmlinux. ``gpl`` is whether only GPL modules may
    import it. ``weak`` is whether it may be missing."""

    symbol: str
    provider: str
    gpl: bool
    weak: bool


@dataclass(frozen=True, slots=True)
class InspectedModule:
    """A module with its imports resolved."""

    name: str
    object: Object
    imports: tuple[ImportedSymbol, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """The inspected modules of a kernel, and the ``findings``, which are lines of text."""

    kernel: Kernel
    build_id: str
    modules: tuple[InspectedModule, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Objects:
    """The object files of a kernel. ``files`` are the paths of its modules, by name."""

    kernel: Kernel
    vmlinux: Object | None
    files: dict[str, Path]


def inspect(kernel: Kernel, module_name: str | None) -> Inspection:
    """Inspect the module with this name or in this file, or every IOMMU driver if there is no
    name. Raises UsageError for a module that the kernel does not have, and for a file that is not a
    complete arm64 object."""
    objects = _Objects(kernel, read_vmlinux(kernel), _files(kernel))
    findings: list[str] = []
    modules: list[InspectedModule] = []
    names = [module_name] if module_name else list(DRIVERS)
    for name in names:
        path = _path(objects, name, findings)
        if path is None:
            continue
        module = _module(objects, path)
        modules.append(module)
        findings += _findings(objects, module)
    build_id = objects.vmlinux.build_id if objects.vmlinux else ""
    return Inspection(kernel, build_id, tuple(modules), tuple(findings))


def read_vmlinux(kernel: Kernel) -> Object | None:
    """Read the kernel's vmlinux. Returns None if the kernel does not have the file."""
    path = kernel.directory / "vmlinux"
    return elf.read(path) if path.is_file() else None


def _named(path: Path) -> str:
    return path.stem.replace("-", "_")


def _files(kernel: Kernel) -> dict[str, Path]:
    paths = [*kernel.modules.rglob("*.ko"), *kernel.guest_modules]
    return {_named(path): path for path in sorted(paths)}


def _path(objects: _Objects, module_name: str, findings: list[str]) -> Path | None:
    """Return the file of a module. For a driver that is not a module, add a finding and return
    None."""
    if "/" in module_name or module_name.endswith(".ko"):
        return Path(module_name)
    name = module_name.replace("-", "_")
    if name in objects.files:
        return objects.files[name]
    if name in _builtin(objects.kernel):
        findings.append(f"{name} is built in, not a module")
        return None
    if name not in DRIVERS:
        hint = did_you_mean(name, objects.files, "give a module of this kernel or a .ko file")
        raise UsageError(f"{objects.kernel.label} has no module {module_name!r}", hint)
    option = DRIVERS[name].option
    value = config.values(objects.kernel.config.read_text(errors="replace")).get(option, "n")
    findings.append(f"{name} is not a module: CONFIG_{option} is {value}")
    return None


def _builtin(kernel: Kernel) -> set[str]:
    listing = kernel.modules / "modules.builtin"
    if not listing.is_file():
        return set()
    return {_named(Path(line)) for line in listing.read_text().splitlines()}


def _module(objects: _Objects, path: Path) -> InspectedModule:
    module = elf.read(path)
    providers = _providers(objects, module)
    imports = (
        _import(symbol, weak=weak, providers=providers, missing="" if objects.vmlinux else "?")
        for symbol, weak in sorted(module.imports.items())
    )
    return InspectedModule(module.value("name") or _named(path), module, tuple(imports))


def _import(
    symbol: str, *, weak: bool, providers: Sequence[tuple[str, Object]], missing: str
) -> ImportedSymbol:
    """Resolve an import. The provider is ``missing`` if none of ``providers`` exports it."""
    for name, each in providers:
        if symbol in each.exports:
            return ImportedSymbol(symbol, name, each.exports[symbol], weak)
    return ImportedSymbol(symbol, missing, False, weak)


def _providers(objects: _Objects, module: Object) -> list[tuple[str, Object]]:
    """vmlinux and the modules that the module depends on, with their names."""
    below = [name for name in _depends(module) if name in objects.files]
    kernel = [("vmlinux", objects.vmlinux)] if objects.vmlinux else []
    return [*kernel, *((name, elf.read(objects.files[name])) for name in below)]


def _depends(module: Object) -> list[str]:
    return [name.replace("-", "_") for name in module.value("depends").split(",") if name]


def _findings(objects: _Objects, module: InspectedModule) -> Iterator[str]:
    name = module.name
    found = module.object
    if not found.info:
        yield f"{name}: has no .modinfo section, so the kernel does not load it"
        return
    license_ = found.value("license")
    if license_ not in _GPL:
        only = [each.symbol for each in module.imports if each.gpl]
        imports = f", but it imports {_some(only)}, which only GPL modules may use" if only else ""
        yield f"{name}: license {license_ or 'none'!r} taints the kernel{imports}"
    vermagic = found.value("vermagic").split(" ")[0]
    if vermagic != objects.kernel.release:
        release = f"built for {vermagic}" if vermagic else "has no vermagic"
        yield f"{name}: {release}, but the kernel is {objects.kernel.release}"
    for depended in _depends(found):
        if depended not in objects.files and depended not in _builtin(objects.kernel):
            yield f"{name}: depends on {depended}, which this kernel does not have"
    if objects.vmlinux:
        missing = [each.symbol for each in module.imports if not each.provider and not each.weak]
        if missing:
            where = " or ".join(["vmlinux", *_depends(found)])
            yield f"{name}: {_some(missing)} not exported by {where}"
    yield from _alias_findings(module)


def _alias_findings(module: InspectedModule) -> Iterator[str]:
    aliases = set(module.object.values("alias"))
    uncovered = [text for text in module.object.compatibles if f"of:N*T*C{text}" not in aliases]
    if uncovered:
        devices = _some(uncovered)
        yield f"{module.name}: no alias for {devices}, so udev does not load it for these devices"
    driver = DRIVERS.get(module.name)
    for alias in driver.aliases if driver else ():
        if alias not in aliases and alias.partition("*C")[2] not in uncovered:
            yield f"{module.name}: no alias {alias}"


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def lines(result: Inspection) -> Iterator[tuple[str, str]]:
    """Format an inspection as lines of text, each with its style."""
    yield "", f"{result.kernel.label}: {result.kernel.release}"
    yield "", f"vmlinux build-id: {result.build_id or 'no vmlinux'}"
    for module in result.modules:
        yield "", ""
        yield from _module_lines(module)
    yield "", ""
    for finding in result.findings:
        yield "bold red", f"finding: {finding}"
    if not result.findings:
        yield "bold green", "no findings"


def _module_lines(module: InspectedModule) -> Iterator[tuple[str, str]]:
    found = module.object
    yield "bold", f"{module.name}  ({found.path})"
    for name in _DESCRIPTION:
        if found.value(name):
            yield "", f"  {name:<12} {found.value(name)}"
    yield "", f"  {'build-id':<12} {found.build_id or 'none'}"
    for text in found.values("alias"):
        yield "", f"  {'alias':<12} {text}"
    types = dict(text.partition(":")[::2] for text in found.values("parmtype"))
    about = dict(text.partition(":")[::2] for text in found.values("parm"))
    for name in sorted(types.keys() | about.keys()):
        yield "", f"  {'parameter':<12} {name} ({types.get(name, '?')}): {about.get(name, '')}"
    for symbol, gpl in sorted(found.exports.items()):
        yield "", f"  {'exports':<12} {symbol}{' (GPL)' if gpl else ''}"
    for each in module.imports:
        source = f"from {each.provider}" if each.provider else "(not exported)"
        if not each.provider and each.weak:
            source = "(weak, not exported)"
        yield "", f"  {'imports':<12} {each.symbol}{' (GPL)' if each.gpl else ''} {source}"


def record(result: Inspection) -> dict[str, Any]:
    """Convert an inspection to its JSON record."""
    return {
        "kernel": result.kernel.label,
        "release": result.kernel.release,
        "build_id": result.build_id,
        "modules": [_module_record(module) for module in result.modules],
        "findings": list(result.findings),
    }


def _module_record(module: InspectedModule) -> dict[str, Any]:
    found = module.object
    return {
        "name": module.name,
        "path": str(found.path),
        **{name: found.value(name) for name in _DESCRIPTION},
        "build_id": found.build_id,
        "aliases": found.values("alias"),
        "compatibles": list(found.compatibles),
        "parameters": found.values("parm"),
        "parameter_types": found.values("parmtype"),
        "exports": [{"symbol": name, "gpl": gpl} for name, gpl in sorted(found.exports.items())],
        "imports": [
            {"symbol": i.symbol, "provider": i.provider, "gpl": i.gpl, "weak": i.weak}
            for i in module.imports
        ],
    }
