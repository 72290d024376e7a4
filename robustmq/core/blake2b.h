/* BLAKE2b (RFC 7693) with a key and digests of eight bytes, of what is not empty: the key's block is
 * taken in once, so that a topic's name costs one compression of 128 bytes. */
#ifndef ROBUSTMQ_BLAKE2B_H
#define ROBUSTMQ_BLAKE2B_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ROBUSTMQ_BLAKE2B_STATE 64 /* bytes */

static const uint64_t robustmq_blake2b_iv[8] = {
    0x6A09E667F3BCC908u, 0xBB67AE8584CAA73Bu, 0x3C6EF372FE94F82Bu, 0xA54FF53A5F1D36F1u,
    0x510E527FADE682D1u, 0x9B05688C2B3E6C1Fu, 0x1F83D9ABFB41BD6Bu, 0x5BE0CD19137E2179u};

#define ROBUSTMQ_ROTATED(v, n) ((v) >> (n) | (v) << (64 - (n)))
#define ROBUSTMQ_MIX(a, b, c, d, x, y)                                                            \
    a += b + m[x];                                                                                \
    d = ROBUSTMQ_ROTATED(d ^ a, 32);                                                              \
    c += d;                                                                                       \
    b = ROBUSTMQ_ROTATED(b ^ c, 24);                                                              \
    a += b + m[y];                                                                                \
    d = ROBUSTMQ_ROTATED(d ^ a, 16);                                                              \
    c += d;                                                                                       \
    b = ROBUSTMQ_ROTATED(b ^ c, 63);
#define ROBUSTMQ_ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd, se, sf)            \
    ROBUSTMQ_MIX(v0, v4, v8, vc, s0, s1)                                                          \
    ROBUSTMQ_MIX(v1, v5, v9, vd, s2, s3)                                                          \
    ROBUSTMQ_MIX(v2, v6, va, ve, s4, s5)                                                          \
    ROBUSTMQ_MIX(v3, v7, vb, vf, s6, s7)                                                          \
    ROBUSTMQ_MIX(v0, v5, va, vf, s8, s9)                                                          \
    ROBUSTMQ_MIX(v1, v6, vb, vc, sa, sb)                                                          \
    ROBUSTMQ_MIX(v2, v7, v8, vd, sc, sd)                                                          \
    ROBUSTMQ_MIX(v3, v4, v9, ve, se, sf)

/* `taken` bytes with this block, the key's included. */
static void robustmq_blake2b_block(uint64_t *h, const unsigned char *block, uint64_t taken, int last) {
    uint64_t m[16];
    uint64_t v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
    const uint64_t *iv = robustmq_blake2b_iv;
    uint64_t v8 = iv[0], v9 = iv[1], va = iv[2], vb = iv[3];
    uint64_t vc = iv[4] ^ taken, vd = iv[5], ve = last ? ~iv[6] : iv[6], vf = iv[7];
    memcpy(m, block, 128);
    ROBUSTMQ_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    ROBUSTMQ_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
    ROBUSTMQ_ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4)
    ROBUSTMQ_ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8)
    ROBUSTMQ_ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13)
    ROBUSTMQ_ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9)
    ROBUSTMQ_ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11)
    ROBUSTMQ_ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10)
    ROBUSTMQ_ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5)
    ROBUSTMQ_ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0)
    ROBUSTMQ_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    ROBUSTMQ_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
    h[0] ^= v0 ^ v8;
    h[1] ^= v1 ^ v9;
    h[2] ^= v2 ^ va;
    h[3] ^= v3 ^ vb;
    h[4] ^= v4 ^ vc;
    h[5] ^= v5 ^ vd;
    h[6] ^= v6 ^ ve;
    h[7] ^= v7 ^ vf;
}

/* The state after a key of 1 to 64 bytes. */
static inline void robustmq_blake2b_begin(unsigned char *state, const unsigned char *key, size_t size) {
    uint64_t h[8];
    unsigned char block[128] = {0};
    memcpy(h, robustmq_blake2b_iv, sizeof h);
    h[0] ^= 0x01010000u ^ (uint64_t)size << 8 ^ 8;
    memcpy(block, key, size);
    robustmq_blake2b_block(h, block, 128, 0);
    memcpy(state, h, sizeof h);
}

/* The digest of data that is not empty, little-endian. */
static inline uint64_t robustmq_blake2b_end(const unsigned char *state, const unsigned char *data, size_t size) {
    uint64_t h[8], taken = 128;
    unsigned char block[128] = {0};
    memcpy(h, state, sizeof h);
    for (; size > 128; size -= 128, data += 128) robustmq_blake2b_block(h, data, taken += 128, 0);
    memcpy(block, data, size);
    robustmq_blake2b_block(h, block, taken + size, 1);
    return h[0];
}

#endif
