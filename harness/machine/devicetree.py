# SPDX-License-Identifier: GPL-2.0-only
"""The device tree of a machine: QEMU's own, with overlays from ``dts/``.

Phandles are read from what QEMU generates and never written down here.
"""

from pathlib import Path

import libfdt

from harness.errors import ProgramFailed, UsageError
from harness.host import cache, paths, program
from harness.machine import qemu
from harness.machine.topology import Machine

_ROOM = 16384  # bytes that overlays may add


def blob(machine: Machine) -> Path:
    """The machine's device tree, from the cache when it has been made before.

    Raises UsageError for an overlay that does not compile or apply, or that
    names a stream ID the IOMMU cannot have.
    """
    overlays = [_source(name) for name in machine.overlays]
    command = qemu.board(machine)
    texts = (path.read_bytes() for path in overlays)
    key = cache.digest(qemu.identity(machine.qemu), *command, *texts)

    def make(into: Path) -> None:
        with cache.scratch() as scratch:
            tree = _dump(machine, scratch / "qemu.dtb")
            for overlay in overlays:
                tree = _applied(tree, overlay, machine, scratch)
        if not machine.broken_firmware:
            check_stream_ids(tree, machine)
        (into / "machine.dtb").write_bytes(_packed(tree))

    return cache.entry("devicetree", key, "making a device tree", make) / "machine.dtb"


def _packed(tree: bytes) -> bytes:
    """Without the free space: arm64 takes no device tree above 2 MiB (MAX_FDT_SIZE),
    and QEMU dumps 1 MiB and doubles what it loads."""
    fdt = libfdt.Fdt(tree)
    fdt.pack()
    return bytes(fdt.as_bytearray())


def _source(name: str) -> Path:
    if Path(name).is_absolute():
        return Path(name)
    path = paths.data("dts") / f"{name}.dts"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.dts")))
        raise UsageError(f"no device-tree overlay {name!r}", f"there are: {known}")
    return path


def _dump(machine: Machine, file: Path) -> bytes:
    program.run(qemu.board(machine, f",dumpdtb={file}"))
    return file.read_bytes()


def _applied(base: bytes, overlay: Path, machine: Machine, scratch: Path) -> bytes:
    compiled = scratch / f"{overlay.stem}.dtbo"
    command = ["dtc", "-@", "-q", "-I", "dts", "-O", "dtb", "-o", str(compiled), str(overlay)]
    try:
        program.run(command)
    except ProgramFailed as failure:
        raise UsageError(f"{overlay} does not compile: {failure.output.strip()}") from None
    tree = libfdt.Fdt(base)
    tree.resize(len(base) + _ROOM)
    _label_iommu(tree, machine)
    merged = tree.as_bytearray()
    status = libfdt.fdt_overlay_apply(merged, bytearray(compiled.read_bytes()))
    if status != 0:
        raise UsageError(f"{overlay.name} does not apply: {libfdt.strerror(status)}")
    return bytes(merged)


def _label_iommu(tree: libfdt.Fdt, machine: Machine) -> None:
    """Gives the IOMMU's node the label ``iommu`` that overlays refer to."""
    path = tree.get_path(_iommu_node(tree, machine))
    symbols = tree.path_offset("/__symbols__", [libfdt.NOTFOUND])
    if symbols < 0:
        symbols = tree.add_subnode(0, "__symbols__")
    tree.setprop_str(symbols, "iommu", path)


def _iommu_node(tree: libfdt.Fdt, machine: Machine) -> int:
    """QEMU's own, by the label that it has got: overlays may bring others."""
    symbols = tree.path_offset("/__symbols__", [libfdt.NOTFOUND])
    if symbols >= 0:
        return int(tree.path_offset(tree.getprop(symbols, "iommu").as_str()))
    compatible = machine.iommu.compatible
    node = int(libfdt.fdt_node_offset_by_compatible(tree.as_bytearray(), -1, compatible))
    if node < 0:
        raise UsageError(f"QEMU's device tree has no {compatible} node")
    return node


def stream_ids(tree: bytes, machine: Machine) -> dict[str, list[int]]:
    """The stream IDs that each node's ``iommus`` names, by the node's path.

    One cell an IOMMU and one an ID: both IOMMUs here have ``#iommu-cells`` 1
    (Documentation/devicetree/bindings/iommu/iommu.txt).
    """
    fdt = libfdt.Fdt(tree)
    iommu = fdt.get_phandle(_iommu_node(fdt, machine))
    found: dict[str, list[int]] = {}
    node, depth = 0, 0
    while depth >= 0:
        cells = fdt.getprop(node, "iommus", [libfdt.NOTFOUND])
        if cells != -libfdt.NOTFOUND:
            words = cells.as_uint32_list()
            pairs = zip(words[::2], words[1::2], strict=True)
            found[fdt.get_path(node)] = [number for handle, number in pairs if handle == iommu]
        node, depth = fdt.next_node(node, depth, [libfdt.NOTFOUND])
    return found


def check_stream_ids(tree: bytes, machine: Machine) -> None:
    """Raises UsageError for an ID that is wider than the IOMMU's."""
    limit = 1 << machine.iommu.stream_id_bits
    for path, numbers in stream_ids(tree, machine).items():
        for number in numbers:
            if number >= limit:
                raise UsageError(
                    f"{path} has stream ID {number:#x}, but {machine.name} has "
                    f"{machine.iommu.stream_id_bits} bits of them",
                    f"use one below {limit:#x}",
                )
