# SPDX-License-Identifier: GPL-2.0-only
"""The device tree of a machine: QEMU's own tree, with overlays from ``dts/``.

Phandles are always read from the tree that QEMU generates, and never constants here.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import libfdt

from harness.errors import ProgramFailed, UsageError
from harness.host import cache, paths, program
from harness.machine import qemu
from harness.machine.topology import Machine

# Part of the cache key. Raise it when the steps below produce a different tree.
_RECIPE = "4"

_ROOM = 16384  # bytes that overlays may add

# QEMU's virt has 32 slots for virtio-mmio and fills them from the highest address. The channels
# and SSH use one slot each. Each unused slot is a device that every boot probes, and that is
# visited whenever the guest's state is read from sysfs.
_HARNESS_SLOTS = 2


def blob(machine: Machine) -> Path:
    """Return the file of the machine's device tree, and create it if it is not in the cache.

    Raises UsageError for an overlay that does not compile or apply, or with a stream ID that is
    too large for the IOMMU.
    """
    overlays = [_source(name) for name in machine.overlays]
    compiled = [_compiled(path, path.stat().st_mtime_ns) for path in overlays]
    # The compiled overlay covers the files that its source includes.
    texts = (blob.hex() for blob in compiled)
    command, broken = qemu.board(machine), str(machine.broken_firmware)
    key = cache.digest(_RECIPE, qemu.identity(machine.qemu), *command, broken, *texts)

    def make(into: Path) -> None:
        with cache.scratch() as scratch:
            tree = _without_empty_slots(_dump(machine, scratch / "qemu.dtb"), machine)
        for overlay, blob in zip(overlays, compiled, strict=True):
            tree = _applied(tree, overlay, blob, machine)
        if not machine.broken_firmware:
            check_stream_ids(tree, machine)
        (into / "machine.dtb").write_bytes(_packed(tree))

    return cache.entry("devicetree", key, "device tree", make) / "machine.dtb"


def _packed(tree: bytes) -> bytes:
    """Remove the free space in the tree. arm64 accepts no device tree larger than 2 MiB
    (MAX_FDT_SIZE), but QEMU dumps 1 MiB and doubles the size of a tree that it loads."""
    fdt = libfdt.Fdt(tree)
    fdt.pack()
    return bytes(fdt.as_bytearray())


def _source(name: str) -> Path:
    if Path(name).is_absolute():
        if not Path(name).is_file():
            reason = paths.not_a_file(Path(name))
            raise UsageError(f"cannot read the overlay {name}: {reason}", "give a .dts file")
        return Path(name)
    path = paths.data("dts") / f"{name}.dts"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.dts")))
        raise UsageError(f"unknown overlay {name!r}", f"known overlays: {known}")
    return path


def _dump(machine: Machine, file: Path) -> bytes:
    try:
        program.run(qemu.board(machine, f",dumpdtb={file}"))
    except ProgramFailed as failure:
        lines = failure.output.strip().splitlines()
        qemu.check_program(machine.qemu)
        error = lines[-1].removeprefix(f"{machine.qemu}: ") if lines else failure.message
        raise UsageError(
            f"QEMU rejects the machine {machine.name}: {error}", "fix its devices or properties"
        ) from None
    if not file.is_file():
        raise UsageError(
            f"{machine.qemu} did not write a device tree", "use a QEMU for arm64 with --qemu"
        )
    return file.read_bytes()


def _without_empty_slots(tree: bytes, machine: Machine) -> bytes:
    fdt = libfdt.Fdt(tree)
    # "virtio-rng-device" is on virtio-mmio, "virtio-rng-pci" is not.
    used = _HARNESS_SLOTS + sum(each.model.endswith("-device") for each in machine.devices)
    slots = {fdt.get_path(node): fdt.getprop(node, "reg") for node in _slots(tree)}
    highest_first = sorted(slots, key=lambda path: bytes(slots[path]), reverse=True)
    for path in highest_first[used:]:
        fdt.setprop_str(fdt.path_offset(path), "status", "disabled")
    return bytes(fdt.as_bytearray())


def _slots(tree: bytes) -> Iterator[int]:
    blob, node = bytearray(tree), -1
    while (node := libfdt.fdt_node_offset_by_compatible(blob, node, "virtio,mmio")) >= 0:
        yield node


# An overlay is compiled once per process, not once per guest.
@functools.cache
def _compiled(overlay: Path, _changed: int) -> bytes:
    with cache.scratch() as scratch:
        target = scratch / f"{overlay.stem}.dtbo"
        command = ["dtc", "-@", "-q", "-I", "dts", "-O", "dtb", "-o", str(target), str(overlay)]
        try:
            program.run(command)
        except ProgramFailed as failure:
            raise UsageError(
                f"{overlay} does not compile: {failure.output.strip()}", "fix the overlay"
            ) from None
        return target.read_bytes()


def _applied(base: bytes, overlay: Path, compiled: bytes, machine: Machine) -> bytes:
    tree = libfdt.Fdt(base)
    tree.resize(len(base) + _ROOM)
    _label_iommu(tree, machine)
    merged = tree.as_bytearray()
    status = libfdt.fdt_overlay_apply(merged, bytearray(compiled))
    if status != 0:
        raise UsageError(
            f"{overlay.name} does not apply: {libfdt.strerror(status)}", "fix the overlay"
        )
    return bytes(merged)


def _label_iommu(tree: libfdt.Fdt, machine: Machine) -> None:
    """Set the label ``iommu``, to which overlays refer, on the IOMMU's node."""
    path = tree.get_path(_iommu_node(tree, machine))
    symbols = tree.path_offset("/__symbols__", [libfdt.NOTFOUND])
    if symbols < 0:
        symbols = tree.add_subnode(0, "__symbols__")
    tree.setprop_str(symbols, "iommu", path)


def _iommu_node(tree: libfdt.Fdt, machine: Machine) -> int:
    """The node of QEMU's own IOMMU. It is found by its label, if it has one, because overlays may
    add further IOMMUs."""
    symbols = tree.path_offset("/__symbols__", [libfdt.NOTFOUND])
    if symbols >= 0:
        return int(tree.path_offset(tree.getprop(symbols, "iommu").as_str()))
    compatible = machine.iommu.compatible
    node = int(libfdt.fdt_node_offset_by_compatible(tree.as_bytearray(), -1, compatible))
    if node < 0:
        raise UsageError(f"QEMU's device tree has no {compatible} node")
    return node


def stream_ids(tree: bytes, machine: Machine) -> dict[str, list[int]]:
    """The stream IDs in each node's ``iommus`` property for QEMU's own IOMMU, by the node's path.

    The property is a list of a phandle and as many cells as that IOMMU's ``#iommu-cells``
    (Documentation/devicetree/bindings/iommu/iommu.txt), which is 1 for QEMU's IOMMUs.
    """
    fdt = libfdt.Fdt(tree)
    iommu = fdt.get_phandle(_iommu_node(fdt, machine))
    found: dict[str, list[int]] = {}
    node, depth = 0, 0
    while depth >= 0:
        cells = fdt.getprop(node, "iommus", [libfdt.NOTFOUND])
        if cells != -libfdt.NOTFOUND:
            pairs = _specifiers(fdt, fdt.get_path(node), cells.as_uint32_list())
            found[fdt.get_path(node)] = [number for handle, number in pairs if handle == iommu]
        node, depth = fdt.next_node(node, depth, [libfdt.NOTFOUND])
    return found


def _specifiers(fdt: libfdt.Fdt, device: str, words: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the phandle and the first specifier cell (0 if there is none) of each entry of the
    ``iommus`` property of a device."""
    while words:
        handle = words.pop(0)
        node = fdt.node_offset_by_phandle(handle, [libfdt.NOTFOUND])
        cells = fdt.getprop(node, "#iommu-cells", [libfdt.NOTFOUND]) if node >= 0 else node
        if cells == -libfdt.NOTFOUND or len(words) < cells.as_uint32():
            raise UsageError(
                f"{device}: iommus refers to phandle {handle:#x}, whose node is missing or has no"
                " #iommu-cells, or which too few cells follow",
                "refer to the IOMMU's node, and put #iommu-cells cells after its phandle",
            )
        count = cells.as_uint32()
        yield handle, words[0] if count else 0
        del words[:count]


def check_stream_ids(tree: bytes, machine: Machine) -> None:
    """Raise UsageError for a stream ID that is wider than the stream IDs of the IOMMU."""
    limit = 1 << machine.iommu.stream_id_bits
    for path, numbers in stream_ids(tree, machine).items():
        for number in numbers:
            if number >= limit:
                raise UsageError(
                    f"{path} has stream ID {number:#x}, but stream IDs of {machine.name} have "
                    f"{machine.iommu.stream_id_bits} bits",
                    f"use a stream ID below {limit:#x}",
                )
