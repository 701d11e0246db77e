# SPDX-License-Identifier: GPL-2.0-only
"""The state of modules, IOMMU groups and devices in sysfs, and the changes between two states.
guest-scripts/init/state.c prints the text that this module parses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from harness.errors import GuestLost, UsageError


@dataclass(frozen=True, slots=True)
class Module:
    """A loaded module.

    ``state`` is "live", "coming" or "going" (initstate). ``refcount`` is the number in
    /sys/module/NAME/refcnt. ``holders`` are the modules that use this module."""

    name: str
    state: str
    refcount: int
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """An IOMMU group.

    ``type`` is the type of its default domain (DMA, identity, ...), "" if the kernel does not
    have the file ``type``, or "?" if a dead task holds the lock that is needed to read the file.
    ``devices`` are the names of the devices in the group."""

    id: int
    type: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A PCI or platform device.

    ``driver`` is the driver that is bound to it, or "". ``group`` is the number of its IOMMU
    group, or None. ``iommu`` is the name of the IOMMU that it links to, or "". ``deferred`` is
    whether the driver core has deferred its probe. ``firmware_iommu`` is whether firmware
    describes an IOMMU for it."""

    bus: str
    name: str
    driver: str
    group: int | None
    iommu: str
    deferred: bool
    firmware_iommu: bool

    @property
    def untranslated(self) -> bool:
        """Whether firmware describes an IOMMU for the device, but its DMA bypasses that IOMMU: the
        device is bound to a driver and has no group. Never true of a host bridge, which has no
        driver and does no DMA of its own."""
        return bool(self.driver) and self.firmware_iommu and self.group is None


@dataclass(frozen=True, slots=True)
class State:
    """The state of a guest at one time.

    The keys are the names of modules, the numbers of groups and the names of devices. ``iommus``
    maps the name of each registered IOMMU to the names of the devices that it links to."""

    modules: dict[str, Module] = field(default_factory=dict)
    groups: dict[int, Group] = field(default_factory=dict)
    iommus: dict[str, tuple[str, ...]] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)

    def __repr__(self) -> str:
        """A short text, because pytest prints it for every failed assertion about the state."""
        modules = ", ".join(f"{each.name} {each.refcount}" for each in self.modules.values())
        groups = ", ".join(f"{each.id} of {len(each.devices)}" for each in self.groups.values())
        return f"<modules {modules or 'none'}; groups {groups or 'none'}>"

    @property
    def untranslated(self) -> list[str]:
        """The names of the devices whose DMA bypasses the IOMMU that firmware describes."""
        return [name for name, device in self.devices.items() if device.untranslated]

    @property
    def grouped(self) -> list[str]:
        """The names of the devices that have a group. Each device pins the module of its IOMMU
        once."""
        return [name for name, device in self.devices.items() if device.group is not None]

    def is_loaded(self, module: str) -> bool:
        """Whether the module is loaded. As with modprobe, "-" and "_" in names are equivalent."""
        return module.replace("-", "_") in self.modules

    def refcount(self, module: str) -> int:
        """The module's reference count. Raises UsageError if it is not loaded."""
        found = self.refcount_if_loaded(module)
        if found is None:
            loaded = ", ".join(self.modules) or "none"
            raise UsageError(f"{module} is not loaded", f"load it first; loaded modules: {loaded}")
        return found

    def refcount_if_loaded(self, module: str) -> int | None:
        """The module's reference count; None if it is not loaded."""
        found = self.modules.get(module.replace("-", "_"))
        return found.refcount if found else None


def parse(text: str) -> State:
    """Parse the lines of a state. Raises GuestLost for an invalid line, which means that the
    guest's PID 1 is no longer our init."""
    state = State()
    deferred: set[str] = set()
    for line in text.splitlines():
        kind, *words = line.split(" ")
        try:
            _READERS[kind](state, deferred, words)
        except (KeyError, ValueError):
            raise GuestLost(f"the guest sent an invalid state line: {line[:200]!r}") from None
    return state


# The type of a group until its "type" line is parsed. The guest prints these lines last.
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
    if group:  # otherwise the group was created after the groups were read
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


# The guest prints the lines of deferred devices first: _device needs the names.
_READERS = {
    "deferred": _deferral,
    "module": _module,
    "group": _group,
    "iommu": _iommu,
    "device": _device,
    "type": _type,
}


Change = tuple[str, tuple[str, ...]]


def changes(before: State, after: State) -> list[str]:
    """The differences between two states, one line for each module, group or device."""
    return [f"{subject}: {', '.join(parts)}" for subject, parts in differences(before, after)]


def differences(before: State, after: State) -> list[Change]:
    """The differences between two states: each module, group or device that differs, and in what
    it differs."""
    return [
        *_module_changes(before, after),
        *_group_changes(before, after),
        *_device_changes(before, after),
    ]


def _module_changes(before: State, after: State) -> Iterator[Change]:
    for name in sorted(before.modules.keys() | after.modules.keys()):
        old, new = before.modules.get(name), after.modules.get(name)
        if old is None and new:
            yield f"module {name}", ("loaded", f"refcount {new.refcount}")
        elif old and new is None:
            yield f"module {name}", ("unloaded",)
        elif old and new and old != new:
            yield f"module {name}", tuple(_module_difference(old, new))


def _module_difference(old: Module, new: Module) -> Iterator[str]:
    if old.refcount != new.refcount:
        yield f"refcount {old.refcount} -> {new.refcount}"
    if old.state != new.state:
        yield f"{old.state} -> {new.state}"
    if old.holders != new.holders:
        yield f"held by {_list(old.holders) or 'none'} -> {_list(new.holders) or 'none'}"


def _group_changes(before: State, after: State) -> Iterator[Change]:
    for number in sorted(before.groups.keys() | after.groups.keys()):
        subject = f"group {number}"
        old, new = before.groups.get(number), after.groups.get(number)
        if old is None and new:
            yield subject, (f"appeared, {new.type or 'no type'}, {_devices(new)}",)
        elif old and new is None:
            yield subject, (f"removed ({_devices(old)})",)
        elif old and new and old.type != new.type:
            yield subject, (f"type {old.type or 'none'} -> {new.type or 'none'}",)
        elif old and new and old.devices != new.devices:
            yield subject, (f"{_devices(old)} -> {_devices(new)}",)


def _device_changes(before: State, after: State) -> Iterator[Change]:
    for name in sorted(before.devices.keys() | after.devices.keys()):
        old, new = before.devices.get(name), after.devices.get(name)
        if old is None and new:
            yield f"device {name}", ("appeared",)
        elif old and new is None:
            yield f"device {name}", ("removed",)
        elif old and new and old != new:
            yield f"device {name}", tuple(_device_difference(old, new))


def _device_difference(old: Device, new: Device) -> Iterator[str]:
    if old.driver != new.driver:
        yield f"driver {old.driver or 'none'} -> {new.driver or 'none'}"
    if old.group != new.group:
        yield f"group {_number(old.group)} -> {_number(new.group)}"
    if old.deferred != new.deferred:
        yield "probe deferred" if new.deferred else "no longer deferred"


def _number(group: int | None) -> str:
    return "none" if group is None else str(group)


def _devices(group: Group) -> str:
    return _list(group.devices) or "empty"


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)
