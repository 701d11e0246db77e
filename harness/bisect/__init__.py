# SPDX-License-Identifier: GPL-2.0-only
"""Which change made the difference."""
