# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness cache``: list, verify and clear the cache."""

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.errors import UsageError, did_you_mean
from harness.host import inventory, paths
from harness.host.inventory import Item

_HELP = """List, verify and clear the cache of kernels, packages and snapshots.

\b
  iommu-harness cache ls kernel
  iommu-harness cache gc --days 7

The cache is the directory ~/.cache/iommu-harness, or $IOMMU_HARNESS_CACHE. It can be deleted at any
time."""

app = options.application(help=_HELP, no_args_is_help=True)


@app.command("ls")
def ls(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="List this kind: kernel, snapshot, ...")
    ] = "",
    as_json: options.Json = False,
) -> None:
    """List the entries of the cache.

    \b
      iommu-harness cache ls
      iommu-harness cache ls snapshot

    There is a line for each kind of entry: the size, the days since the last use, and the number
    of entries. With KIND, there is a line for each entry of that kind, with its key and title.
    """
    if kind and kind not in inventory.KINDS:
        hint = did_you_mean(kind, inventory.KINDS, f"known kinds: {', '.join(inventory.KINDS)}")
        raise UsageError(f"unknown kind of cache entry {kind!r}", hint)
    items = [item for item in inventory.items() if kind in ("", item.kind)]
    if as_json:
        output.print_json({"directory": str(paths.cache()), "items": [_record(i) for i in items]})
    else:
        output.show(("", text) for text in (_table(items) if kind else _kinds(items)))


@app.command()
def verify(as_json: options.Json = False) -> None:
    """Check every file in the cache for damage.

    \b
      iommu-harness cache verify
      iommu-harness cache verify --json

    Each file is compared with the digest that was recorded when it was written. The exit status
    is 1 if an entry is damaged. A damaged entry is rebuilt at its next use.
    """
    found = list(inventory.damaged())
    if as_json:
        rows = [_record(item) | {"problem": problem} for item, problem in found]
        output.print_json({"damaged": rows})
    elif found:
        output.show(("red", f"{item.kind} {item.title}: {problem}") for item, problem in found)
    else:
        output.show([("", "no damage found")])
    raise typer.Exit(1 if found else 0)


@app.command()
def gc(
    days: Annotated[
        float, typer.Option(min=0, metavar="N", help="Keep entries used in the last N days.")
    ] = 30,
    as_json: options.Json = False,
) -> None:
    """Remove entries that have not been used recently.

    \b
      iommu-harness cache gc
      iommu-harness cache gc --days 0

    Entries that a running command uses are kept.
    """
    removed = list(inventory.remove_unused(days))
    if as_json:
        output.print_json({"removed": [_record(item) for item in removed]})
        return
    total = output.size(sum(item.size for item in removed))
    output.show(("", text) for text in _table(removed, f"removed {total}"))


def _record(item: Item) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "key": item.key,
        "title": item.title,
        "bytes": item.size,
        "last_used": item.used,
        "path": str(item.path),
    }


def _kinds(items: Sequence[Item]) -> Iterator[str]:
    for kind in sorted({item.kind for item in items}):
        these = [item for item in items if item.kind == kind]
        yield f"{_facts(these)}  {len(these):>4}"
    yield _total(items)


def _table(items: Sequence[Item], heading: str = "") -> Iterator[str]:
    for item in items:
        yield f"{_facts([item])}  {item.key}  {item.title}"
    yield heading or _total(items)


def _facts(items: Sequence[Item]) -> str:
    """The total size of entries of one kind, the days since the last use, and the kind."""
    days = (time.time() - max(item.used for item in items)) / 86400
    return f"{output.size(sum(item.size for item in items)):>8}  {days:5.1f} d  {items[0].kind:<10}"


def _total(items: Sequence[Item]) -> str:
    return f"{paths.cache()}: {output.size(sum(item.size for item in items))}"
