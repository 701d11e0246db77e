# SPDX-License-Identifier: GPL-2.0-only
"""Bisection for the first bad commit, patch, release or option."""
