# SPDX-License-Identifier: GPL-2.0-only
from harness.plugin.scenario_fixtures import *  # noqa: F403
