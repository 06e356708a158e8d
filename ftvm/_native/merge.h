/* merge: the deltas of several epochs as those of one, without the pages that they apply to.
 *
 * A delta carries new bytes (delta.h), so two of them compose: of each byte that either names, the later one's value
 * stays. What comes out applies to whatever the first input applied to, and gives what all inputs give in order.
 *
 * Only bytes that the inputs carry are known here. The forms of an ordinary delta may carry bytes that did not change;
 * here there is nothing to fill such a gap with, so a merged delta carries exactly the bytes that its inputs carried,
 * and may be a little longer than FTVM_DELTA_BYTES_MAX. Every decoder takes it.
 *
 * Nothing here allocates; safe on any bytes.
 */
#ifndef FTVM_MERGE_H
#define FTVM_MERGE_H

#include "apply.h"
#include "capture.h"

/* No merged delta is longer: a mask, and 64 lines of which each lacks one byte. */
#define FTVM_MERGE_BYTES_MAX 4672

/* So many inputs merge at once. */
#define FTVM_MERGE_INPUTS_MAX 64

/* One input and how far it is merged; the caller sets `batch`, and the rest to 0. */
struct ftvm_merge_input {
    struct ftvm_received batch; /* of anybody's making: nothing in it is trusted */
    size_t entry;
    size_t offset;
};

enum ftvm_merge_end {
    FTVM_MERGE_DONE = 0,
    FTVM_MERGE_FULL = 1, /* call again with room: the inputs know where to go on */
    FTVM_MERGE_BAD = 2,  /* an index that does not rise or is outside, a length that does not fit, bytes that are no
                            delta; what is in `out` is then of no use */
};

/* Merges inputs, the oldest first, until all are done or `out` has no room for another page.
 *
 * inputs      `count` of them, 1 to FTVM_MERGE_INPUTS_MAX
 * page_count  every index must be below it
 * out         entries are added; room for one more is FTVM_MERGE_BYTES_MAX bytes of payload and one entry
 * A page that one input alone names is copied as it is, not looked into. */
enum ftvm_merge_end ftvm_merge_batches(struct ftvm_merge_input *inputs, size_t count, uint32_t page_count,
                                       struct ftvm_batch *out);

#endif
