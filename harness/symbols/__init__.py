# SPDX-License-Identifier: GPL-2.0-only
"""Where in the source the functions of call traces stand."""
