# SPDX-License-Identifier: GPL-2.0-only
"""Translate the device names in a report to the guest's devices with the same role."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import UsageError

_BDF = re.compile(
    r"(?<![\w:.])(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](?![\w:])", re.IGNORECASE
)
_VIRTIO = re.compile(r"\bvirtio\d+\b")
_PLATFORM = re.compile(
    r"(?<![\w.-])(?:[0-9a-f]{5,12}\.[a-z][\w-]*|arm-smmu-v3\.\d+\.auto)(?![\w-])"
)
_INTERFACE = re.compile(
    r"(?<![\w.-])(?:eth\d+|en(?:p\d+)?s\d+(?:f\d+)?|eno\d+|enx[0-9a-f]{12}|end\d+)\b"
)
_NAMES = (_BDF, _VIRTIO, _PLATFORM, _INTERFACE)

# The drivers of QEMU's PCI devices, by vendor and device ID.
_DRIVERS = {
    "8086:10d3": "e1000e",
    "8086:100e": "e1000",
    "8086:10c9": "igb",
    "1b36:0010": "nvme",
    "1b36:000c": "pcieport",
    "1b36:000e": "shpchp",
    "1af4": "virtio-pci",
}
# The drivers of virtio devices, by ID (include/uapi/linux/virtio_ids.h).
_VIRTIO_DRIVERS = {1: "virtio_net", 2: "virtio_blk", 3: "virtio_console", 23: "virtio_iommu"}

# A command that prints one line for each device: bus, name, class, ID and driver.
LISTING = (
    "for d in /sys/bus/pci/devices/*; do [ -e $d/vendor ] && read v <$d/vendor && read i "
    "<$d/device "
    "&& read c <$d/class && n= && [ -e $d/driver ] && n=$(readlink $d/driver); "
    "[ -e $d/vendor ] && echo pci ${d##*/} $c ${v#0x}:${i#0x} ${n##*/}; done; "
    "for d in /sys/bus/virtio/devices/*; do [ -e $d/device ] && read i <$d/device && n= && "
    "[ -e $d/driver ] && n=$(readlink $d/driver); [ -e $d/device ] && "
    "echo virtio ${d##*/} - $i ${n##*/}; done; "
    "for d in /sys/bus/platform/devices/*; do n=; [ -e $d/driver ] && n=$(readlink $d/driver); "
    "echo platform ${d##*/} - - ${n##*/}; done; "
    "for d in /sys/class/net/*; do [ -e $d/device ] && echo net ${d##*/} - - -; done; true"
)


# Drivers that users bind in place of a device's own driver.
_USER_DRIVERS = ("vfio-pci", "pci-stub")

# The maximum number of devices that a message lists.
_MAX_LISTED = 12


@dataclass(frozen=True, slots=True)
class GuestDevice:
    """A device of the guest. ``bus`` is "pci", "virtio", "platform" or "net". ``pci_class`` is in
    hex. ``driver`` is the bound driver, or the driver that matches the device if none is bound."""

    bus: str
    name: str
    pci_class: str
    driver: str


def parse_listing(printed: str) -> list[GuestDevice]:
    """Parse the output of LISTING."""
    found = []
    for line in printed.splitlines():
        words = [*line.split(), "", "", "", "", ""]
        bus, name, pci_class, identity, driver = words[:5]
        if bus == "virtio":
            driver = driver or _VIRTIO_DRIVERS.get(_number(identity), "")
        elif bus == "pci":
            vendor = identity.partition(":")[0]
            driver = driver or _DRIVERS.get(identity, _DRIVERS.get(vendor, ""))
            if driver in _USER_DRIVERS:
                driver = _DRIVERS.get(identity, driver)
        if name and name != "*":
            found.append(GuestDevice(bus, name, pci_class, driver))
    return found


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


@dataclass(slots=True)
class DeviceNames:
    """The device names in a report, and the guest's devices for them.

    ``context`` is the text of the report. Messages in it name the drivers of devices. ``chosen``
    are the user's choices (--device). ``known`` are the guest's devices found so far, by the name
    in the report. ``unclear`` are the names that fit no device or several devices, each with the
    reason.
    """

    context: str
    iommu_driver: str
    chosen: Mapping[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)

    def translate(self, text: str) -> str:
        """Return the text with the guest's names in place of the reporter's names."""
        for name in sorted(self.known, key=len, reverse=True):
            if name in text:
                text = re.sub(rf"(?<![\w:.-]){re.escape(name)}(?!\w)", self.known[name], text)
        return text

    def learn(self, text: str, devices: Sequence[GuestDevice], *, must_fit: bool) -> list[str]:
        """Find the guest's devices for the names in a command or its output, and return a note on
        each device found. ``must_fit``: a name that does not fit exactly one device becomes
        unclear."""
        notes = []
        for name in find_names(text):
            if name in self.known or name in self.unclear:
                continue
            if name in self.chosen:
                self.known[name] = self.chosen[name]
                notes.append(f"the report's {name} is the guest's {self.chosen[name]} (--device)")
                continue
            role, fits = self._fits(name, text, devices)
            same = next((each for each in devices if each.name == with_domain(name)), None)
            if same and (not same.driver or same.name in fits):
                # The name is used for the device even after it is removed.
                self.known[name] = name
            if same and (name in self.known or not fits):
                continue
            twin = self._twin(name, fits[0]) if len(fits) == 1 else ""
            if twin:
                reason = f"the report has {twin} and {name}, but the guest has only one {role}"
                self.known.pop(twin, None)
                self.unclear |= {twin: reason, name: reason}
            elif len(fits) == 1:
                self.known[name] = _as_written(name, fits[0])
                notes.append(f"the report's {name} is the guest's {fits[0]}, its only {role}")
            elif must_fit:
                self.unclear[name] = _unclear(name, role, fits)
        return notes

    def _twin(self, name: str, guest_name: str) -> str:
        """Return another name in the report that already stands for this device, "" if none."""
        same = (each for each, one in self.known.items() if with_domain(one) == guest_name)
        return next((each for each in same if with_domain(each) != with_domain(name)), "")

    def why_unclear(self, text: str) -> str:
        """Return why a name in the text has no device in the guest, "" if each name has one."""
        return next((reason for name, reason in self.unclear.items() if name in text), "")

    def _fits(self, name: str, text: str, devices: Sequence[GuestDevice]) -> tuple[str, list[str]]:
        """Return the role of the device, and the names of the guest's devices with this role."""
        if _INTERFACE.fullmatch(name):
            return "network interface", [each.name for each in devices if each.bus == "net"]
        drivers = self._drivers_of(name, text)
        bus = "pci" if _BDF.fullmatch(name) else "virtio" if _VIRTIO.fullmatch(name) else "platform"
        same_bus = [each for each in devices if each.bus == bus]
        if bus == "platform" and _is_iommu(name, drivers):
            return "IOMMU", [one.name for one in same_bus if _is_iommu(one.name, [one.driver])]
        for driver in drivers:
            plain = driver.replace("-", "_")
            found = [each.name for each in same_bus if each.driver.replace("-", "_") == plain]
            if found:
                return f"{driver} device", found
        if bus == "pci" and not drivers:
            # Class 0x06 is for bridges.
            endpoints = [one.name for one in same_bus if not one.pci_class.startswith("0x06")]
            return "PCI endpoint", endpoints
        if bus == "platform":
            return "platform client", [one.name for one in same_bus if ".client" in one.name]
        return f"{drivers[0]} device" if drivers else "", []

    def _drivers_of(self, name: str, text: str) -> list[str]:
        """The drivers of a device, from paths in the text and from messages in the report."""
        by_path = re.findall(r"/drivers/([\w-]+)", text)
        without_domain = re.escape(name.removeprefix("0000:"))
        by_message = re.findall(rf"\b([\w-]{{2,40}}) (?:0000:)?{without_domain}:", self.context)
        found = dict.fromkeys([*by_path, *by_message])
        return [each for each in found if each not in (*_USER_DRIVERS, "pci")]


def find_names(text: str) -> Iterator[str]:
    """Yield each device name in a text once."""
    found = (match[0] for pattern in _NAMES for match in pattern.finditer(text))
    yield from dict.fromkeys(found)


def with_domain(name: str) -> str:
    """Return the name with the PCI domain, which a report may leave out."""
    return f"0000:{name}" if _BDF.fullmatch(name) and name.count(":") == 1 else name


def _as_written(name: str, guest_name: str) -> str:
    """Return the guest's name, without the PCI domain if the report leaves out the domain."""
    return guest_name.removeprefix("0000:") if with_domain(name) != name else guest_name


def _is_iommu(name: str, drivers: Iterable[str]) -> bool:
    return "smmu" in name or "iommu" in name or any("smmu" in each for each in drivers)


def _unclear(name: str, role: str, fits: Sequence[str]) -> str:
    hint = f"choose a device with --device {name}=NAME"
    if not fits:
        return f"the guest has no {role or 'device'} for the report's {name}; {hint}"
    return f"the report's {name} can be any of {', '.join(fits[:6])}; {hint}"


def parse_choices(choices: Sequence[str]) -> dict[str, str]:
    """Parse the values of --device, REPORTED=GUEST. Raises UsageError for an invalid value."""
    found = {}
    for choice in choices:
        reported, equals, guest_name = choice.partition("=")
        given = equals and reported.strip() and guest_name.strip()
        if not given or shlex.quote(guest_name) != guest_name:
            raise UsageError(
                f"--device {choice!r} is not of the form REPORTED=GUEST",
                "for example --device 0000:81:00.0=0000:00:01.0",
            )
        found[reported.strip()] = guest_name
    return found


def check_choices(chosen: Mapping[str, str], devices: Sequence[GuestDevice]) -> None:
    """Raise UsageError if the guest does not have a chosen device."""
    names = [each.name for each in devices]
    for reported, guest_name in chosen.items():
        if with_domain(guest_name) not in names:
            raise UsageError(
                f"--device {reported}={guest_name}: the guest has no {guest_name}",
                f"choose one of {', '.join(names[:_MAX_LISTED])}",
            )
