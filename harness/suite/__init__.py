# SPDX-License-Identifier: GPL-2.0-only
"""The scenario suite run as a job: on kernels and machines, and against mutants."""
