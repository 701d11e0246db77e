# SPDX-License-Identifier: GPL-2.0-only
"""Run the scenario suite as a job, on kernels and machines, and mutation-test it."""
