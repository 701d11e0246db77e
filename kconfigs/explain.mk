# SPDX-License-Identifier: GPL-2.0-only
# Read by the kernel's own make before its makefiles (MAKEFILES), so that the
# program gets exactly the environment in which Kconfig is evaluated there. The
# goal's name ends in "config" because that is how kbuild tells a goal that
# needs no configuration yet.
harness-explain-config:
	@$(HARNESS_EXPLAIN) Kconfig < $(HARNESS_SYMBOLS)
