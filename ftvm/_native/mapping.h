/* mapping: a file as memory, whose pages may be changed without changing the file, and which no bad sector ends.
 *
 * The memory is a private mapping of the file: a page that nobody wrote to shows what the file holds, now and after each
 * write to the file; a page that was written is this process's own, until it is dropped. So resident memory is what was
 * written and not dropped; the rest is the system's cache.
 *
 * A page that the device cannot read, or that lies behind the end of a file that was cut, raises SIGBUS, which ends a
 * process. Here a handler puts a page of zeros in its place and notes it: whoever reads a guarded mapping asks
 * ftvm_mapping_lost before it believes what it read. A SIGBUS elsewhere goes to whoever handled it before.
 *
 * The caller owns the memory: page-aligned, any mapping of the right size, which is replaced. Functions return 0 or a
 * negative errno.
 */
#ifndef FTVM_MAPPING_H
#define FTVM_MAPPING_H

#include <stddef.h>
#include <stdint.h>

#define FTVM_MAPPINGS_MAX 64

/* Guards `bytes` at `base`, and has them show zeros. Returns the number of the mapping, or -ENFILE when
 * FTVM_MAPPINGS_MAX are guarded, -EINVAL where the system's pages are not of 4096 bytes. */
int ftvm_mapping_guard(uint8_t *base, size_t bytes);

/* Guards it no longer: a SIGBUS there ends the process again. */
void ftvm_mapping_unguard(int mapping);

/* Has the memory show the first bytes of the file `image`, or zeros with -1; what was written to it is gone. */
int ftvm_mapping_show(int mapping, int image);

/* As ftvm_mapping_show, of `count` pages from `first` on alone, which may show another file than the rest. What was lost
 * so far is forgotten. Returns -EINVAL for pages that are not there. */
int ftvm_mapping_show_part(int mapping, int image, size_t first, size_t count);

/* Has `count` pages from `first` on be zeros of this process's own, for whoever writes all of them: to write to a page
 * of the file reads it first, perhaps from a device that is busy. The file stays open until another is shown. */
int ftvm_mapping_own(int mapping, size_t first, size_t count);

/* Has all of the memory show the first bytes of another file, with the same content, but for pages with a flag in `own`:
 * these are this process's own, and stay what they are. Who reads meanwhile sees the one file or the other; nobody may
 * write. Returns -errno, and may have done a part then. */
int ftvm_mapping_show_under(int mapping, int image, const uint8_t *own);

/* Has `count` pages from `first` on show the file again; what was written to them is gone. */
int ftvm_mapping_drop(int mapping, size_t first, size_t count);

/* Has a guarded mapping that begins at `base` and has so many bytes show zeros, and returns 1; else 0. */
int ftvm_mapping_clear(const uint8_t *base, size_t bytes);

/* Returns how many pages were lost since the file was shown; each reads as zeros since. */
uint32_t ftvm_mapping_lost(int mapping);

#endif
