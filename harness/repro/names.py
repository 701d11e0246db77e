# SPDX-License-Identifier: GPL-2.0-only
"""The reporter's device names, and the guest's devices that have the same role."""

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
NAMES = (_BDF, _VIRTIO, _PLATFORM, _INTERFACE)

# Devices as QEMU has them, by PCI vendor and device, with the driver that reports name.
_DRIVERS = {
    "8086:10d3": "e1000e",
    "8086:100e": "e1000",
    "8086:10c9": "igb",
    "1b36:0010": "nvme",
    "1b36:000c": "pcieport",
    "1b36:000e": "shpchp",
    "1af4": "virtio-pci",
}
# virtio_ids.h
_VIRTIO_DRIVERS = {1: "virtio_net", 2: "virtio_blk", 3: "virtio_console", 23: "virtio_iommu"}

# One line a device: bus, name, class, identity, driver.
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


@dataclass(frozen=True, slots=True)
class Entry:
    """A device of the guest: ``bus`` (pci, virtio, platform, net), ``name``, PCI ``kind``
    (its class, in hex), and the ``driver`` that it has or that is for it."""

    bus: str
    name: str
    kind: str
    driver: str


def entries(printed: str) -> list[Entry]:
    """The devices in what LISTING prints."""
    found = []
    for line in printed.splitlines():
        words = [*line.split(), "", "", "", "", ""]
        bus, name, kind, identity, driver = words[:5]
        if bus == "virtio":
            driver = driver or _VIRTIO_DRIVERS.get(_number(identity), "")
        elif bus == "pci":
            vendor = identity.partition(":")[0]
            driver = driver or _DRIVERS.get(identity, _DRIVERS.get(vendor, ""))
            # A user's driver took it; reports name the device's own.
            if driver in ("vfio-pci", "pci-stub"):
                driver = _DRIVERS.get(identity, driver)
        if name and name != "*":
            found.append(Entry(bus, name, kind, driver))
    return found


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


@dataclass(slots=True)
class Names:
    """The reporter's names and the guest's. ``chosen`` is the user's choice (--device),
    ``known`` what has been found so far, ``unclear`` the names that several devices, or
    none, fit, with the reason."""

    context: str
    iommu_driver: str
    chosen: Mapping[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)

    def translate(self, text: str) -> str:
        """The text with the guest's names in place of the reporter's."""
        for name in sorted(self.known, key=len, reverse=True):
            if name in text:
                text = re.sub(rf"(?<![\w:.-]){re.escape(name)}(?!\w)", self.known[name], text)
        return text

    def learn(self, command: str, devices: Sequence[Entry], *, runs: bool) -> list[str]:
        """Finds the guest's devices for the names in a command, or in what is printed; returns
        what was found, in words. One that ``runs`` now has to be clear."""
        said = []
        for name in names_in(command):
            if name in self.known or name in self.unclear:
                continue
            if name in self.chosen:
                self.known[name] = self.chosen[name]
                said.append(f"the report's {name} is the guest's {self.chosen[name]}, as chosen")
                continue
            role, fits = self._fits(name, command, devices)
            own = next((each for each in devices if each.name == full(name)), None)
            if own and (not own.driver or own.name in fits):
                # It stays the same one when it is gone.
                self.known[name] = name
            if own and (name in self.known or not fits):
                continue
            twin = self._twin(name, fits[0]) if len(fits) == 1 else ""
            if twin:
                why = f"the report's {twin} and {name} are two, the guest has one {role}"
                self.known.pop(twin, None)
                self.unclear |= {twin: why, name: why}
            elif len(fits) == 1:
                self.known[name] = _as_written(name, fits[0])
                said.append(f"the report's {name} is the guest's {fits[0]}, its only {role}")
            elif runs:
                self.unclear[name] = _unclear(name, role, fits)
        return said

    def _twin(self, name: str, guests: str) -> str:
        """Another of the report's devices that is the guest's one already, "" for none."""
        same = (each for each, ours in self.known.items() if full(ours) == guests)
        return next((each for each in same if full(each) != full(name)), "")

    def about(self, command: str) -> str:
        """Why a command that names devices cannot be run as meant, "" when it can."""
        return next((why for name, why in self.unclear.items() if name in command), "")

    def _fits(self, name: str, command: str, devices: Sequence[Entry]) -> tuple[str, list[str]]:
        """The role of the device, and the guest's devices that have it."""
        if _INTERFACE.fullmatch(name):
            return "network interface", [each.name for each in devices if each.bus == "net"]
        drivers = self._drivers_of(name, command)
        bus = "pci" if _BDF.fullmatch(name) else "virtio" if _VIRTIO.fullmatch(name) else "platform"
        same = [each for each in devices if each.bus == bus]
        if bus == "platform" and _is_iommu(name, drivers):
            found = [each.name for each in same if _is_iommu(each.name, [each.driver])]
            return "IOMMU", found
        for driver in drivers:
            plain = driver.replace("-", "_")
            found = [each.name for each in same if each.driver.replace("-", "_") == plain]
            if found:
                return f"{driver} device", found
        if bus == "pci" and not drivers:
            ends = [each.name for each in same if not each.kind.startswith("0x06")]
            return "PCI endpoint", ends
        if bus == "platform" and not _is_iommu(name, drivers):
            clients = [each.name for each in same if ".client" in each.name]
            return "platform client", clients
        return f"{drivers[0]} device" if drivers else "", []

    def _drivers_of(self, name: str, command: str) -> list[str]:
        """The drivers that the command's paths, and then the report's messages, name with it."""
        paths = re.findall(r"/drivers/([\w-]+)", command)
        bare = re.escape(name.removeprefix("0000:"))
        before = rf"\b([\w-]{{2,40}}) (?:0000:)?{bare}:"
        logged = re.findall(before, self.context)
        wanted = [*paths, *logged]
        return [
            each for each in dict.fromkeys(wanted) if each not in ("vfio-pci", "pci", "pci-stub")
        ]


def names_in(command: str) -> Iterator[str]:
    """The names of devices in a command, each once."""
    found = (match[0] for pattern in NAMES for match in pattern.finditer(command))
    yield from dict.fromkeys(found)


def full(name: str) -> str:
    """The name with the PCI domain that a report may leave out."""
    return f"0000:{name}" if _BDF.fullmatch(name) and name.count(":") == 1 else name


def _as_written(name: str, guests: str) -> str:
    """Without the PCI domain where the report writes none."""
    return guests.removeprefix("0000:") if full(name) != name else guests


def _has(name: str, devices: Iterable[Entry]) -> bool:
    return any(each.name == full(name) for each in devices)


def _is_iommu(name: str, drivers: Iterable[str]) -> bool:
    return "smmu" in name or "iommu" in name or any("smmu" in each for each in drivers)


def _unclear(name: str, role: str, fits: Sequence[str]) -> str:
    hint = f"choose one with --device {name}=NAME"
    if not fits:
        return f"the guest has no {role or 'device'} for the report's {name}; {hint}"
    return f"the report's {name} may be any of {', '.join(fits[:6])}; {hint}"


def parse(choices: Sequence[str]) -> dict[str, str]:
    """What --device says, REPORTED=GUEST. Raises UsageError for what is none."""
    found = {}
    for choice in choices:
        reported, equals, guests = choice.partition("=")
        if not (equals and reported.strip() and guests.strip()) or shlex.quote(guests) != guests:
            raise UsageError(
                f"--device {choice!r} names no pair of devices",
                "write --device REPORTED=GUEST, 0000:81:00.0=0000:00:01.0 for example",
            )
        found[reported.strip()] = guests.strip()
    return found


def check(chosen: Mapping[str, str], devices: Sequence[Entry]) -> None:
    """Raises UsageError for a chosen device that the guest does not have."""
    have = [each.name for each in devices]
    for reported, guests in chosen.items():
        if not _has(guests, devices):
            raise UsageError(
                f"--device {reported}={guests}: the guest has no {guests}",
                f"it has {', '.join(have[:12])}",
            )
