/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef HARNESS_GUEST_H
#define HARNESS_GUEST_H

#include <stdbool.h>
#include <stddef.h>

/* The agent's file descriptors: it reads its script from one and writes statuses to the other. */
#define AGENT_COMMAND_FD 8
#define AGENT_STATUS_FD 9

/* Read the first line of a file without its newline. Returns 0, or -1 if there is none. */
int read_line(const char *path, char *line, size_t size);

/* Whether ACPI names an IOMMU for a PCI device's requester ID; see acpi.c. */
bool acpi_names_iommu(unsigned int requester);

/* The phase of the process that reads the state. */
enum { STATE_READING, STATE_TYPES };
/* Ends a state, after its last line. */
#define STATE_END '\0'

/*
 * Print the state for each byte read from requests: modules, IOMMU groups and devices, one
 * a line; see state.c. Returns at the end of requests.
 */
void state_main(int requests, volatile int *phase);

/* The command "vfio"; see commands/vfio.c. Returns its exit status. */
int vfio_main(int argc, char **argv);

/* The command "failnth"; see commands/failnth.c. Returns its exit status. */
int failnth_main(int argc, char **argv);

/* The command "reseed"; see commands/reseed.c. Returns its exit status. */
int reseed_main(void);

#endif
