# SPDX-License-Identifier: GPL-2.0-only
"""Source lines of the frames of call traces."""
