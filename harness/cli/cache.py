# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness cache``: what the cache holds, whether it is whole, and less of it."""

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.errors import UsageError, did_you_mean
from harness.host import inventory, paths
from harness.host.inventory import Item

app = typer.Typer(
    add_completion=False, help="The cache: list it, check it, clear it.", no_args_is_help=True
)


@app.command("ls")
def ls(
    kind: Annotated[str, typer.Argument(metavar="[KIND]", help="kernel, snapshot, ...")] = "",
    as_json: options.Json = False,
) -> None:
    """What is in the cache: size, days since it was used, and how many of each kind; or
    each thing of one kind."""
    if kind and kind not in inventory.KINDS:
        hint = did_you_mean(kind, inventory.KINDS, f"there are {', '.join(inventory.KINDS)}")
        raise UsageError(f"the cache has no kind {kind!r}", hint)
    items = [item for item in inventory.items() if kind in ("", item.kind)]
    if as_json:
        output.print_json({"directory": str(paths.cache()), "items": [_record(i) for i in items]})
    else:
        output.say(("", text) for text in (_table(items) if kind else _kinds(items)))


@app.command()
def verify(as_json: options.Json = False) -> None:
    """Check every file against what was written. Exit status 1 when something is
    damaged: it is made again when it is next used."""
    found = list(inventory.damaged())
    if as_json:
        rows = [_record(item) | {"problem": problem} for item, problem in found]
        output.print_json({"damaged": rows})
    elif found:
        output.say(("red", f"{item.kind} {item.title}: {problem}") for item, problem in found)
    else:
        output.say([("", "everything is as it was written")])
    raise typer.Exit(1 if found else 0)


@app.command()
def gc(
    days: Annotated[float, typer.Option(min=0, help="What was used since then stays.")] = 30,
    as_json: options.Json = False,
) -> None:
    """Remove what was not used for some days; never what a running command uses."""
    removed = list(inventory.collect(days))
    if as_json:
        output.print_json({"removed": [_record(item) for item in removed]})
        return
    total = output.size(sum(item.size for item in removed))
    output.say(("", text) for text in _table(removed, f"removed, {total}"))


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
    """Of one kind: their size, the days since one was used, the kind."""
    days = (time.time() - max(item.used for item in items)) / 86400
    return f"{output.size(sum(item.size for item in items)):>8}  {days:5.1f} d  {items[0].kind:<10}"


def _total(items: Sequence[Item]) -> str:
    return f"{paths.cache()}: {output.size(sum(item.size for item in items))}"
