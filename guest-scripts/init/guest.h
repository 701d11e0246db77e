/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef HARNESS_GUEST_H
#define HARNESS_GUEST_H

#include <stdbool.h>
#include <stddef.h>

/* Descriptors of the agent: a newline for each command, its status back. */
#define AGENT_COMMAND_FD 8
#define AGENT_STATUS_FD 9

/* The first line of a file without its newline; 0, or -1 where there is none. */
int read_line(const char *path, char *line, size_t size);

/* Whether ACPI has an IOMMU for a PCI device's requester ID; see acpi.c. */
bool acpi_names_iommu(unsigned int requester);

/* What the process that looks at the kernel is at. */
enum { STATE_LOOKING, STATE_TYPES };
/* Follows the last line of a state. */
#define STATE_END '\0'

/*
 * For each byte that is requested prints modules, IOMMU groups and devices, a line each;
 * see state.c. Returns when nobody requests any more.
 */
void state_main(int requests, volatile int *phase);

/* The command "vfio"; see vfio.c. Returns its exit status. */
int vfio_main(int argc, char **argv);

/* The command "failnth"; see failnth.c. Returns its exit status. */
int failnth_main(int argc, char **argv);

/* The command "reseed"; see reseed.c. Returns its exit status. */
int reseed_main(void);

#endif
