# SPDX-License-Identifier: GPL-2.0-only
"""Run the scenario suite on kernels and machines, and test the suite itself with mutants."""
