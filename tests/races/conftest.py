# SPDX-License-Identifier: GPL-2.0-only
"""The fixtures of all scenarios."""

from harness.plugin.scenario_fixtures import *  # noqa: F403
