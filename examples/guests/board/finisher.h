/* finisher: the test finisher, a device whose only register ends the run and hands an exit code to the host.
 *
 * Source: SiFive's test finisher as in QEMU's `virt` board: 0x5555 is success, 0x3333 with a code above it is failure.
 */
#ifndef FINISHER_H
#define FINISHER_H

/* Ends the run: code 0 is success, 1..65535 failure. Where no finisher listens, the hart sleeps for ever. */
_Noreturn void finisher_end(int code);

#endif
