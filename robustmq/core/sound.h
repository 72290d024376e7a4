/* Whether record batches that lie one behind the other are sound: `sound_areas.py` is the interpreted form. */
#ifndef ROBUSTMQ_SOUND_H
#define ROBUSTMQ_SOUND_H

#include "crc32c.h"

#define ROBUSTMQ_BATCH_HEADER 61

/* Where the first batch begins that is not sound, or `size`; `left` is how many more might have been looked at. */
static size_t robustmq_sound_until(
    const unsigned char *p, size_t size, int64_t expected, int64_t next_offset, Py_ssize_t most, Py_ssize_t *left) {
    size_t at = 0;
    for (*left = most; *left > 0; --*left) {
        const unsigned char *batch = p + at;
        if (size - at < ROBUSTMQ_BATCH_HEADER) return at;
        int64_t base = (int64_t)robustmq_swap64(robustmq_get64(batch));
        int32_t length = (int32_t)robustmq_swap32(robustmq_get32(batch + 8));
        int32_t delta = (int32_t)robustmq_swap32(robustmq_get32(batch + 23));
        if (batch[16] != 2 || length < ROBUSTMQ_BATCH_HEADER - 12 || (size_t)length > size - at - 12 || delta < 0) return at;
        if (base < expected || base >= next_offset || delta >= next_offset - base) return at;
        if (robustmq_crc32c(batch + 21, (size_t)length - 9) != robustmq_swap32(robustmq_get32(batch + 17))) return at;
        expected = base + delta + 1;
        at += 12 + (size_t)length;
    }
    return at;
}

#endif
