/* CRC-32C (Castagnoli, reflected polynomial 0x82F63B78): by the processor's instruction where it has one, else by table. */
#ifndef ROBUSTMQ_CRC32C_H
#define ROBUSTMQ_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t robustmq_crc_table[8][256];
static int robustmq_crc_kind = 0; /* 0 not chosen, 1 table, 2 instruction; chosen with the interpreter's lock held */

static void robustmq_crc_make_table(void) {
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t c = n;
        for (int k = 0; k < 8; k++) c = c & 1 ? (c >> 1) ^ 0x82F63B78u : c >> 1;
        robustmq_crc_table[0][n] = c;
    }
    for (uint32_t n = 0; n < 256; n++)
        for (int t = 1; t < 8; t++) {
            uint32_t c = robustmq_crc_table[t - 1][n];
            robustmq_crc_table[t][n] = (c >> 8) ^ robustmq_crc_table[0][c & 255];
        }
}

static uint32_t robustmq_crc_by_table(uint32_t crc, const unsigned char *p, size_t n) {
    while (n >= 8) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = robustmq_crc_table[7][low & 255] ^ robustmq_crc_table[6][(low >> 8) & 255] ^
              robustmq_crc_table[5][(low >> 16) & 255] ^ robustmq_crc_table[4][low >> 24] ^
              robustmq_crc_table[3][p[4]] ^ robustmq_crc_table[2][p[5]] ^
              robustmq_crc_table[1][p[6]] ^ robustmq_crc_table[0][p[7]];
        p += 8;
        n -= 8;
    }
    while (n--) crc = (crc >> 8) ^ robustmq_crc_table[0][(crc ^ *p++) & 255];
    return crc;
}

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define ROBUSTMQ_CRC_INSTRUCTION 1
#include <nmmintrin.h>
static int robustmq_crc_supported(void) { return __builtin_cpu_supports("sse4.2") != 0; }
#define ROBUSTMQ_CRC_TARGET __attribute__((target("sse4.2")))
#define robustmq_crc_word(crc, word) _mm_crc32_u64(crc, word)
ROBUSTMQ_CRC_TARGET
static uint32_t robustmq_crc_by_instruction(uint32_t crc, const unsigned char *p, size_t n) {
    uint64_t wide = crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    while (n--) crc = _mm_crc32_u8(crc, *p++);
    return crc;
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#define ROBUSTMQ_CRC_INSTRUCTION 1
#include <arm_acle.h>
#define ROBUSTMQ_CRC_TARGET
#define robustmq_crc_word(crc, word) __crc32cd((uint32_t)(crc), word)
static int robustmq_crc_supported(void) { return 1; }
static uint32_t robustmq_crc_by_instruction(uint32_t crc, const unsigned char *p, size_t n) {
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        crc = __crc32cd(crc, word);
    }
    while (n--) crc = __crc32cb(crc, *p++);
    return crc;
}
#endif

#ifdef ROBUSTMQ_CRC_INSTRUCTION
/* The instruction gives a result every cycle, but takes three: of what is long, three parts are done side by side (2.5 times
   as fast), and joined by tables that say what a number of zeros behind a part makes of its checksum. */
#define ROBUSTMQ_CRC_LONG 4096
#define ROBUSTMQ_CRC_SHORT 256
static uint32_t robustmq_crc_long[4][256];
static uint32_t robustmq_crc_short[4][256];

static void robustmq_crc_make_zeros(uint32_t table[4][256], size_t size) {
    static const unsigned char zeros[ROBUSTMQ_CRC_SHORT];
    uint32_t of_bit[32];
    for (int bit = 0; bit < 32; bit++) {
        of_bit[bit] = 1u << bit;
        for (size_t done = 0; done < size; done += sizeof zeros)
            of_bit[bit] = robustmq_crc_by_instruction(of_bit[bit], zeros, sizeof zeros);
    }
    for (int byte = 0; byte < 4; byte++)
        for (int n = 0; n < 256; n++) {
            uint32_t crc = 0;
            for (int bit = 0; bit < 8; bit++)
                if (n >> bit & 1) crc ^= of_bit[8 * byte + bit];
            table[byte][n] = crc;
        }
}

static inline uint32_t robustmq_crc_zeros(uint32_t table[4][256], uint32_t crc) {
    return table[0][crc & 255] ^ table[1][crc >> 8 & 255] ^ table[2][crc >> 16 & 255] ^ table[3][crc >> 24];
}

ROBUSTMQ_CRC_TARGET
static inline uint32_t robustmq_crc_three(uint32_t crc, const unsigned char *p, size_t part, uint32_t table[4][256]) {
    uint64_t one = crc, two = 0, three = 0;
    for (size_t at = 0; at < part; at += 8) {
        uint64_t word;
        memcpy(&word, p + at, 8);
        one = robustmq_crc_word(one, word);
        memcpy(&word, p + part + at, 8);
        two = robustmq_crc_word(two, word);
        memcpy(&word, p + 2 * part + at, 8);
        three = robustmq_crc_word(three, word);
    }
    crc = robustmq_crc_zeros(table, (uint32_t)one) ^ (uint32_t)two;
    return robustmq_crc_zeros(table, crc) ^ (uint32_t)three;
}

static uint32_t robustmq_crc_fast(uint32_t crc, const unsigned char *p, size_t n) {
    for (; n >= 3 * ROBUSTMQ_CRC_LONG; n -= 3 * ROBUSTMQ_CRC_LONG, p += 3 * ROBUSTMQ_CRC_LONG)
        crc = robustmq_crc_three(crc, p, ROBUSTMQ_CRC_LONG, robustmq_crc_long);
    for (; n >= 3 * ROBUSTMQ_CRC_SHORT; n -= 3 * ROBUSTMQ_CRC_SHORT, p += 3 * ROBUSTMQ_CRC_SHORT)
        crc = robustmq_crc_three(crc, p, ROBUSTMQ_CRC_SHORT, robustmq_crc_short);
    return robustmq_crc_by_instruction(crc, p, n);
}
#endif

static void robustmq_crc_choose(void) {
#ifdef ROBUSTMQ_CRC_INSTRUCTION
    if (robustmq_crc_supported()) {
        robustmq_crc_make_zeros(robustmq_crc_long, ROBUSTMQ_CRC_LONG);
        robustmq_crc_make_zeros(robustmq_crc_short, ROBUSTMQ_CRC_SHORT);
        robustmq_crc_kind = 2;
        return;
    }
#endif
    robustmq_crc_make_table();
    robustmq_crc_kind = 1;
}

static inline uint32_t robustmq_crc32c_more(uint32_t crc, const unsigned char *p, size_t n) {
    if (robustmq_crc_kind == 0) robustmq_crc_choose();
#ifdef ROBUSTMQ_CRC_INSTRUCTION
    if (robustmq_crc_kind == 2) return ~robustmq_crc_fast(~crc, p, n);
#endif
    return ~robustmq_crc_by_table(~crc, p, n);
}
static inline uint32_t robustmq_crc32c(const unsigned char *p, size_t n) { return robustmq_crc32c_more(0, p, n); }

/* Loads and stores of fixed byte order, at any alignment. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "the compiled core is for little-endian machines; the interpreted one runs anywhere"
#endif
static inline uint16_t robustmq_get16(const unsigned char *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t robustmq_get32(const unsigned char *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t robustmq_get64(const unsigned char *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void robustmq_put16(unsigned char *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void robustmq_put32(unsigned char *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void robustmq_put64(unsigned char *p, uint64_t v) { memcpy(p, &v, 8); }
#define robustmq_swap16 __builtin_bswap16
#define robustmq_swap32 __builtin_bswap32
#define robustmq_swap64 __builtin_bswap64

#endif
