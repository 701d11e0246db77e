# SPDX-License-Identifier: GPL-2.0-only
"""Debian packages of any suite and architecture, without root privileges and without changes to
the host's own apt state.

apt itself resolves, downloads and verifies them, with a private state directory for each suite and
architecture. The mirrors are the mirrors of the host's apt.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostError, ProgramFailed, UsageError
from harness.host import cache, paths, progress
from harness.host.program import run

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_FRESH = 24 * 3600.0  # seconds until package lists are fetched again

MIRROR_VARIABLE = "IOMMU_HARNESS_DEBIAN_MIRROR"


@dataclass(frozen=True, slots=True)
class Suite:
    """A Debian suite. ``secured`` is whether it has a security suite. ``base`` is the suite with
    the dependencies of its packages, "" if it has them itself."""

    name: str
    secured: bool
    base: str = ""


BACKPORTS = Suite("trixie-backports", False, base="trixie")

# The suites in the order in which they are searched for a package: stable releases first.
SUITES = (
    Suite("bookworm", True),
    Suite("bullseye", True),
    Suite("trixie", True),
    Suite("sid", False),
    BACKPORTS,
    Suite("experimental", False, base="sid"),
)


@dataclass(frozen=True, slots=True)
class Package:
    """A package with its exact Debian version, such as ``6.12.117-1``."""

    name: str
    version: str
    suite: Suite
    architecture: str


class Moved(HostError):
    """The archive no longer has the version that is in the cached package lists."""


def find(name: str, architecture: str, suites: Sequence[Suite] = SUITES) -> Package:
    """Find a package in the first suite that has it.

    Raises UsageError if no suite has it, and HostError if the archive cannot be read.
    """
    for package in candidates(name, architecture, suites):
        return package
    searched = ", ".join(suite.name for suite in suites)
    raise UsageError(f"Debian has no package {name} in {searched}", "check the mirror")


def candidates(name: str, architecture: str, suites: Sequence[Suite] = SUITES) -> Iterator[Package]:
    """Yield the package of each suite that has it, in the order of the suites. The package lists
    of a suite are read only when its turn comes.

    Raises HostError if the archive cannot be read.
    """
    for suite in suites:
        for version in _cached(suite, architecture, name, _candidates):
            yield Package(name, version, suite, architecture)


def names(prefix: str, architecture: str) -> set[str]:
    """The package names in all suites that begin with ``prefix``."""
    found: set[str] = set()
    for suite in SUITES:
        found |= set(_cached(suite, architecture, f"{prefix}*", _names))
    return found


def download(package: Package, into: Path) -> Path:
    """Download a package into a directory and return the file. apt verifies it against the signed
    archive.

    Raises Moved if the archive has replaced the version in the meantime (the next ``find`` returns
    the new one), and HostError for other failures.
    """
    _update(package.suite, package.architecture)
    exact = f"{package.name}={package.version}"
    try:
        _apt(package.suite, package.architecture, "download", exact, cwd=into)
    except HostError as error:
        _forget(package.suite, package.architecture)
        now = find(package.name, package.architecture)
        if now == package:
            raise
        raise Moved(f"Debian now has {package.name} {now.version}") from error
    return next(into.glob(f"{package.name}_*.deb"))


def download_closure(names: list[str], suite: Suite, architecture: str, into: Path) -> list[Path]:
    """Download packages and all their dependencies into a directory and return the files. The
    directory must be an absolute path, because apt resolves relative paths against its own state
    directory."""
    _update(suite, architecture)
    (into / "partial").mkdir()
    install = ("install", "--download-only", "--yes", "--no-install-recommends")
    _apt(suite, architecture, "-o", f"Dir::Cache::archives={into}", *install, *names)
    return sorted(into.glob("*.deb"))


def unpack(package: Path, into: Path) -> None:
    """Unpack the files of a package below ``into``, without running its scripts."""
    run(["dpkg-deb", "--extract", str(package), str(into)])


def _cached(
    suite: Suite, architecture: str, word: str, query: Callable[[Suite, str, str], list[str]]
) -> list[str]:
    """Return the result of ``query`` for ``word``. It is cached for a day, and a cached result
    requires no network."""
    file = _state(suite, architecture) / "known.json"
    results = _recent(file)
    if word not in results:
        _update(suite, architecture)
        results[word] = query(suite, architecture, word)
        file.write_text(json.dumps(results))
    return results[word]


def _candidates(suite: Suite, architecture: str, name: str) -> list[str]:
    """The version in the suite, in a list that is empty if the suite does not have the package."""
    policy = _apt(suite, architecture, "policy", name, program="apt-cache")
    line = next((part for part in policy.splitlines() if "Candidate:" in part), "")
    found = line.partition(":")[2].strip()
    return [] if found in ("", "(none)") else [found]


def _names(suite: Suite, architecture: str, pattern: str) -> list[str]:
    prefix = pattern.removesuffix("*")
    return _apt(suite, architecture, "pkgnames", prefix, program="apt-cache").split()


def _forget(suite: Suite, architecture: str) -> None:
    """Discard the cached results, to make the next query read the archive."""
    for name in ("known.json", "updated"):
        (_state(suite, architecture) / name).unlink(missing_ok=True)


def _recent(file: Path) -> dict[str, list[str]]:
    try:
        if time.time() - file.stat().st_mtime > _FRESH:
            return {}
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _update(suite: Suite, architecture: str) -> None:
    state = _state(suite, architecture)
    stamp = state / "updated"
    if stamp.exists() and time.time() - stamp.stat().st_mtime < _FRESH:
        return
    task = f"fetching the package lists of {suite.name} ({architecture})"
    with cache.locked(f"apt-{state.name}", task):
        if stamp.exists() and time.time() - stamp.stat().st_mtime < _FRESH:
            return
        _write_sources(state, suite, architecture)
        try:
            with progress.phase("package lists", task):
                _apt(suite, architecture, "--error-on=any", "update")
        except HostError as error:
            if not stamp.exists():
                raise
            progress.note(f"{error.message}; using older package lists")
            return
        (state / "known.json").unlink(missing_ok=True)
        stamp.touch()


def _write_sources(state: Path, suite: Suite, architecture: str) -> None:
    main, security = mirrors()
    lines = [f"{main} {name} main" for name in (suite.name, suite.base) if name]
    if suite.secured:
        lines.append(f"{security} {suite.name}-security main")
    options = f"[arch={architecture} signed-by={_KEYRING}]"
    text = "".join(f"deb {options} {line}\n" for line in lines)
    (state / "sources.list").write_text(text)
    # By default apt prefers the base suite to backports and experimental.
    (state / "preferences").write_text("Package: *\nPin: release a=*\nPin-Priority: 500\n")


def mirrors() -> tuple[str, str]:
    """The URLs of the main archive and the security archive, from the environment or from the
    host's own apt. Raises HostError if apt has no Debian mirror."""
    chosen = os.environ.get(MIRROR_VARIABLE)
    if chosen:
        return chosen, chosen.rstrip("/") + "-security"
    form = ["--format", "$(ORIGIN)\t$(RELEASE)\t$(REPO_URI)", "Created-By: Packages"]
    rows = [row.split("\t") for row in run(["apt-get", "indextargets", *form]).splitlines()]
    # Before the host's first `apt-get update`, apt does not know the origin and prints $(ORIGIN) as
    # it is.
    usable = [row for row in rows if len(row) == 3 and (row[0] == "Debian" or "$" in row[0])]
    security = [address for _, release, address in usable if release.endswith("-security")]
    main = [address for _, release, address in usable if not release.endswith("-security")]
    if not main:
        raise HostError(
            "this host's apt has no Debian mirror", f"set {MIRROR_VARIABLE} to the URL of a mirror"
        )
    return main[0], security[0] if security else main[0].rstrip("/") + "-security"


def _state(suite: Suite, architecture: str) -> Path:
    name = f"{suite.name}-{architecture}"
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:  # lists differ between archives
        name += f"-{cache.digest(mirror)}"
    state = paths.cache() / "apt" / name
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    # An empty status file means that nothing is installed, so all dependencies are resolved.
    (state / "status").touch()
    return state


def _apt(
    suite: Suite, architecture: str, *words: str, program: str = "apt-get", cwd: Path | None = None
) -> str:
    state = _state(suite, architecture)
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": state / "preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Acquire::Languages": "none",
        # Otherwise apt, if it runs as root, switches to the user _apt, which cannot enter a home
        # directory.
        "APT::Sandbox::User": "root",
        "Acquire::Retries": "3",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    try:
        return run([program, "-q", *options, *words], cwd=cwd)
    except ProgramFailed as failure:
        errors = [line for line in failure.output.splitlines() if line.startswith("E: ")]
        reason = errors[0].removeprefix("E: ") if errors else failure.message
        raise HostError(
            f"{program} failed for {suite.name}: {reason}",
            f"if this is a network error, check the mirror, or set {MIRROR_VARIABLE}",
        ) from failure
