# SPDX-License-Identifier: GPL-2.0-only
"""Select the kernels and machines for each test, and the order of the tests."""

from collections.abc import Collection, Mapping, Sequence

import pytest

from harness.errors import UsageError, did_you_mean
from harness.iommu import machine_file, machines
from harness.iommu.behaviour import Behaviour
from harness.machine import qemus
from harness.machine.topology import Machine
from harness.plugin import events, kernels, options


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test by kernel and, if it uses a machine, by machine: ``[6.12-smmuv3]``.
    Raises CollectError if a marker of this plugin has an invalid argument."""
    names = metafunc.fixturenames
    if "kernel_spec" not in names:
        return
    if problem := _marker_problem(metafunc.definition):
        text = f"{metafunc.definition.nodeid}: {problem}"
        raise pytest.Collector.CollectError(text)
    specs = kernels.named(metafunc.config)
    if "machine" not in names:
        _parametrize(metafunc, "kernel_spec", [(each.where, each) for each in specs])
        return
    pairs = [
        (kernel.with_variants(machine.variants), machine)
        for kernel in specs
        for machine in _machines(metafunc)
    ]
    named = [(f"{kernel.where}-{machine.label}", (kernel, machine)) for kernel, machine in pairs]
    _parametrize(metafunc, "kernel_spec, machine", named)


def _parametrize(
    metafunc: pytest.Metafunc, names: str, values: Sequence[tuple[str, object]]
) -> None:
    """Parametrize a test by values with their ids, each as often as there are trials."""
    trials: int = metafunc.config.getoption("--iommu-trials")
    if trials > 1:
        numbers = range(trials)
        values = [(f"{key}{events.TRIAL}{n}", each) for key, each in values for n in numbers]
    ids = [key for key, _ in values]
    metafunc.parametrize(names, [each for _, each in values], ids=ids, scope="session")


def _marker_problem(item: pytest.Item) -> str:
    """Describe the first invalid argument of the plugin's markers, or return "" if all are valid.
    This runs during collection, because xdist reports no other kind of error in a worker."""
    issues = kernels.known_issues(item.config)
    for marker in item.iter_markers("known_issue"):
        for name in marker.args:
            if name not in issues:
                hint = did_you_mean(name, issues, "see iommu-harness behaviours")
                return f"known issue {name!r} does not exist; {hint}"
    for marker in item.iter_markers("machines"):
        for name in marker.args:
            try:
                machine_file.machine(name)
            except UsageError as error:
                return str(error)
    for marker in item.iter_markers("needs"):
        for each in marker.args:
            if not isinstance(each, Behaviour):
                return f"@pytest.mark.needs requires names of harness.api.behaviour, not {each!r}"
    return ""


def _machines(metafunc: pytest.Metafunc) -> list[Machine]:
    """The machines on the command line that the test applies to. Without machines on the command
    line, these are the machines that the test names, or the default machine."""
    marker = metafunc.definition.get_closest_marker("machines")
    own = list(marker.args) if marker else []
    chosen: list[str] = metafunc.config.getoption("--iommu-machine")
    names = chosen or own or [machines.DEFAULT]
    suitable = [machine_file.machine(name) for name in names if not own or name in own]
    return qemus.on_each(suitable, options.qemus(metafunc.config))


def order(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that apply to none of the machines, and parameters that --iommu-scenario does
    not name. Move the tests of --iommu-run-first to the front."""
    only = set(config.getoption("--iommu-scenario"))
    elsewhere = [each for each in items if _lacks_machine(each) or _is_other(each, only)]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [each for each in items if each not in elsewhere]
    first: list[str] = config.getoption("--iommu-run-first")
    if first:
        ranks = {name: rank for rank, name in enumerate(first)}
        items.sort(key=lambda item: _rank(events.scenario(item), ranks))


def _rank(scenario: str, ranks: Mapping[str, int]) -> int:
    """The rank of the scenario, by its name with or without parameters. Scenarios without a rank
    are last."""
    names = (scenario, scenario.partition("[")[0])
    return min(ranks.get(name, len(ranks)) for name in names)


def _is_other(item: pytest.Item, only: Collection[str]) -> bool:
    """Whether only other parameters of the scenario are named."""
    name = events.scenario(item)
    functions = {each.partition("[")[0] for each in only}
    return name not in only and name.partition("[")[0] in functions


def _lacks_machine(item: pytest.Item) -> bool:
    """Whether the test was parametrized with an empty list of machines."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or not {"kernel_spec", "machine"} <= callspec.params.keys():
        return False
    return not isinstance(callspec.params["machine"], Machine)
