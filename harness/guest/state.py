# SPDX-License-Identifier: GPL-2.0-only
"""The state of modules, IOMMU groups and devices in sysfs, and the changes between two states.
guest-scripts/init/state.c prints what this module parses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from harness.errors import GuestLost, UsageError


@dataclass(frozen=True, slots=True)
class Module:
    """A loaded module: its ``state`` is live, coming or going (initstate), its ``refcount`` is
    that of /sys/module/NAME/refcnt, ``holders`` are the modules that use it."""

    name: str
    state: str
    refcount: int
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """An IOMMU group: the ``type`` of its default domain (DMA, identity, ...; "" if the kernel
    has no such file, "?" if a dead task holds the lock that reading the file takes), and the
    names of its ``devices``."""

    id: int
    type: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A PCI or platform device: its ``driver`` ("" if unbound), its IOMMU ``group`` (None
    without one), the ``iommu`` that it links to (""), whether the driver core has ``deferred``
    its probe, and whether firmware describes an IOMMU for it (``firmware_iommu``)."""

    bus: str
    name: str
    driver: str
    group: int | None
    iommu: str
    deferred: bool
    firmware_iommu: bool

    @property
    def untranslated(self) -> bool:
        """Whether it is bound to a driver, but not behind the IOMMU that firmware describes: its
        DMA is untranslated. A host bridge does no DMA itself."""
        return bool(self.driver) and self.firmware_iommu and self.group is None


@dataclass(frozen=True, slots=True)
class State:
    """The state at one time, by module name, group number and device name. ``iommus`` are the
    registered IOMMUs, each with the devices that it links to."""

    modules: dict[str, Module] = field(default_factory=dict)
    groups: dict[int, Group] = field(default_factory=dict)
    iommus: dict[str, tuple[str, ...]] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Short, because every assertion about a part of it prints it."""
        modules = ", ".join(f"{each.name} {each.refcount}" for each in self.modules.values())
        groups = ", ".join(f"{each.id} of {len(each.devices)}" for each in self.groups.values())
        return f"<modules {modules or 'none'}; groups {groups or 'none'}>"

    @property
    def untranslated(self) -> list[str]:
        """Devices whose DMA bypasses the IOMMU that firmware describes for them."""
        return [name for name, device in self.devices.items() if device.untranslated]

    @property
    def grouped(self) -> list[str]:
        """The devices in a group. Each pins its IOMMU's module once."""
        return [name for name, device in self.devices.items() if device.group is not None]

    def is_loaded(self, module: str) -> bool:
        """Whether the module is loaded. Dashes equal underscores, as for modprobe."""
        return module.replace("-", "_") in self.modules

    def refcount(self, module: str) -> int:
        """The module's reference count. Raises UsageError if it is not loaded."""
        found = self.refcount_if_loaded(module)
        if found is None:
            loaded = ", ".join(self.modules) or "none"
            raise UsageError(f"{module} is not loaded", f"the loaded modules are {loaded}")
        return found

    def refcount_if_loaded(self, module: str) -> int | None:
        """The module's reference count; None if it is not loaded."""
        found = self.modules.get(module.replace("-", "_"))
        return found.refcount if found else None


def parse(text: str) -> State:
    """Parse the lines of a state. Raises GuestLost for an invalid line: the guest no longer
    runs our init."""
    state = State()
    deferred: set[str] = set()
    for line in text.splitlines():
        kind, *words = line.split(" ")
        try:
            _READERS[kind](state, deferred, words)
        except (KeyError, ValueError):
            raise GuestLost(
                f"the guest sent an invalid line of its state: {line[:200]!r}"
            ) from None
    return state


# The type of a group until its line, which follows those of all devices.
_UNKNOWN_TYPE = "?"


def _word(word: str) -> str:
    return "" if word == "-" else word


def _names(word: str) -> tuple[str, ...]:
    return tuple(_word(word).split(",")) if _word(word) else ()


def _module(state: State, _deferred: set[str], words: list[str]) -> None:
    name, initstate, refcount, holders = words
    state.modules[name] = Module(name, initstate, int(refcount), _names(holders))


def _group(state: State, _deferred: set[str], words: list[str]) -> None:
    number, devices = words
    state.groups[int(number)] = Group(int(number), _UNKNOWN_TYPE, _names(devices))


def _type(state: State, _deferred: set[str], words: list[str]) -> None:
    number, kind = words
    group = state.groups.get(int(number))
    if group:  # else it was created after the groups were read
        state.groups[group.id] = replace(group, type=_word(kind))


def _iommu(state: State, _deferred: set[str], words: list[str]) -> None:
    name, devices = words
    state.iommus[name] = _names(devices)


def _device(state: State, deferred: set[str], words: list[str]) -> None:
    bus, name, driver, group, iommu, firmware = words
    number = None if group == "-" else int(group)
    state.devices[name] = Device(
        bus, name, _word(driver), number, _word(iommu), name in deferred, firmware == "iommu"
    )


def _deferral(_state: State, deferred: set[str], words: list[str]) -> None:
    (name,) = words
    deferred.add(name)


# Deferred devices are printed before all others.
_READERS = {
    "deferred": _deferral,
    "module": _module,
    "group": _group,
    "iommu": _iommu,
    "device": _device,
    "type": _type,
}


def changes(before: State, after: State) -> list[str]:
    """The differences, one line each."""
    return [
        *_module_changes(before, after),
        *_group_changes(before, after),
        *_device_changes(before, after),
    ]


def _module_changes(before: State, after: State) -> Iterator[str]:
    for name in sorted(before.modules.keys() | after.modules.keys()):
        old, new = before.modules.get(name), after.modules.get(name)
        if old is None and new:
            yield f"module {name}: loaded, refcount {new.refcount}"
        elif old and new is None:
            yield f"module {name}: unloaded"
        elif old and new and old != new:
            yield f"module {name}: " + ", ".join(_module_difference(old, new))


def _module_difference(old: Module, new: Module) -> Iterator[str]:
    if old.refcount != new.refcount:
        yield f"refcount {old.refcount} -> {new.refcount}"
    if old.state != new.state:
        yield f"{old.state} -> {new.state}"
    if old.holders != new.holders:
        yield f"held by {_list(old.holders)} -> {_list(new.holders)}"


def _group_changes(before: State, after: State) -> Iterator[str]:
    for number in sorted(before.groups.keys() | after.groups.keys()):
        old, new = before.groups.get(number), after.groups.get(number)
        if old is None and new:
            yield f"group {number}: appeared, {new.type or 'no type'}, {_list(new.devices)}"
        elif old and new is None:
            yield f"group {number}: removed ({_list(old.devices)})"
        elif old and new and old.type != new.type:
            yield f"group {number}: type {old.type or 'none'} -> {new.type or 'none'}"
        elif old and new and old.devices != new.devices:
            yield f"group {number}: {_list(old.devices)} -> {_list(new.devices)}"


def _device_changes(before: State, after: State) -> Iterator[str]:
    for name in sorted(before.devices.keys() | after.devices.keys()):
        old, new = before.devices.get(name), after.devices.get(name)
        if old is None and new:
            yield f"device {name}: appeared"
        elif old and new is None:
            yield f"device {name}: removed"
        elif old and new and old != new:
            yield f"device {name}: " + ", ".join(_device_difference(old, new))


def _device_difference(old: Device, new: Device) -> Iterator[str]:
    if old.driver != new.driver:
        yield f"driver {old.driver or 'none'} -> {new.driver or 'none'}"
    if old.group != new.group:
        yield f"group {_number(old.group)} -> {_number(new.group)}"
    if old.deferred != new.deferred:
        yield "probe deferred" if new.deferred else "no longer deferred"


def _number(group: int | None) -> str:
    return "none" if group is None else str(group)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "empty"
