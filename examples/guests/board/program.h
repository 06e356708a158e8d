/* program: the one function that every program here defines; start.S calls it with interrupts off. */
#ifndef PROGRAM_H
#define PROGRAM_H

/* Runs the program. device_tree: see fdt.h; may be NULL. Returns the exit code that the finisher hands to the host. */
int program(const void *device_tree);

#endif
