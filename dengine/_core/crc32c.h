/* CRC-32C of a range of bytes: how it is computed, and on which CPU how.
 *
 * A checksum is a polynomial over GF(2), reflected: bit 31 is x^0. The hardware takes 8 bytes in
 * 3 cycles but can begin one step per cycle, so long ranges are read as three streams at once; a
 * carry-less multiplication moves the checksum of one stream over the length of the next. Knows
 * nothing of records or Python.
 */
#pragma once
#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CRC32C_POLYNOMIAL 0x82F63B78u
#define CRC32C_LONG 1024    /* bytes of one of three streams: joining them costs 4 % */
#define CRC32C_SHORT 64     /* the same for records of a few hundred bytes */

typedef struct { uint32_t one, two; } crc32c_shift;     /* over one stream, over two */

static uint32_t crc32c_table[8][256];
static crc32c_shift crc32c_long, crc32c_short;

#if defined(__x86_64__)
#include <immintrin.h>
#define CRC32C_HARDWARE __attribute__((target("sse4.2,pclmul")))
#define CRC32C_STEP8(crc, word) ((uint32_t)_mm_crc32_u64(crc, word))
#define CRC32C_STEP1(crc, byte) _mm_crc32_u8(crc, byte)
#define CRC32C_MULTIPLY(a, b) ((uint64_t)_mm_cvtsi128_si64( \
    _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)(a)), _mm_cvtsi32_si128((int)(b)), 0)))
static int crc32c_supported(void) {
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}
#elif defined(__aarch64__) && !defined(__AARCH64EB__)
#include <arm_acle.h>
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define CRC32C_HARDWARE __attribute__((target("+crc+crypto")))
#define CRC32C_STEP8(crc, word) __crc32cd(crc, word)
#define CRC32C_STEP1(crc, byte) __crc32cb(crc, byte)
#define CRC32C_MULTIPLY(a, b) ((uint64_t)vmull_p64((poly64_t)(a), (poly64_t)(b)))
static int crc32c_supported(void) {
    unsigned long both = HWCAP_CRC32 | HWCAP_PMULL;
    return (getauxval(AT_HWCAP) & both) == both;
}
#else
static int crc32c_supported(void) { return 0; }
#endif

static inline uint64_t crc32c_word(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return le64toh(word);
}

/* Slicing by 8: the same bytes on every CPU. */
static uint32_t crc32c_portable(const void *data, size_t n, uint32_t seed) {
    const uint8_t *p = data;
    uint32_t crc = ~seed;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word = crc32c_word(p) ^ crc;
        crc = 0;
        for (int i = 0; i < 8; i++)
            crc ^= crc32c_table[7 - i][(uint8_t)(word >> (8 * i))];
    }
    for (; n; p++, n--)
        crc = (crc >> 8) ^ crc32c_table[0][(uint8_t)(crc ^ *p)];
    return ~crc;
}

#ifdef CRC32C_HARDWARE
CRC32C_HARDWARE static inline uint32_t
crc32c_three(uint32_t crc, const uint8_t *p, size_t stream, crc32c_shift shift) {
    uint32_t second = 0, third = 0;
    for (size_t i = 0; i < stream; i += 8) {
        crc = CRC32C_STEP8(crc, crc32c_word(p + i));
        second = CRC32C_STEP8(second, crc32c_word(p + stream + i));
        third = CRC32C_STEP8(third, crc32c_word(p + 2 * stream + i));
    }
    /* One more step reduces the 63-bit products: x^33 too much, which crc32c_power takes off. */
    uint64_t moved = CRC32C_MULTIPLY(crc, shift.two) ^ CRC32C_MULTIPLY(second, shift.one);
    return CRC32C_STEP8(0, moved) ^ third;
}

CRC32C_HARDWARE static uint32_t crc32c_hardware(const void *data, size_t n, uint32_t seed) {
    const uint8_t *p = data;
    uint32_t crc = ~seed;
    for (; n >= 3 * CRC32C_LONG; p += 3 * CRC32C_LONG, n -= 3 * CRC32C_LONG)
        crc = crc32c_three(crc, p, CRC32C_LONG, crc32c_long);
    for (; n >= 3 * CRC32C_SHORT; p += 3 * CRC32C_SHORT, n -= 3 * CRC32C_SHORT)
        crc = crc32c_three(crc, p, CRC32C_SHORT, crc32c_short);
    for (; n >= 8; p += 8, n -= 8)
        crc = CRC32C_STEP8(crc, crc32c_word(p));
    for (; n; p++, n--)
        crc = CRC32C_STEP1(crc, *p);
    return ~crc;
}
#else
#define crc32c_hardware crc32c_portable
#endif

static uint32_t crc32c_times_x(uint32_t a) { return (a >> 1) ^ (CRC32C_POLYNOMIAL & -(a & 1)); }

/* What a checksum is multiplied by to move over `bytes` zeros: x^(8 bytes - 33). */
static uint32_t crc32c_power(size_t bytes) {
    uint32_t a = 1u << 31;
    for (size_t n = 8 * bytes - 33; n; n--)
        a = crc32c_times_x(a);
    return a;
}

typedef uint32_t (*crc32c_function)(const void *, size_t, uint32_t);

/* Fills the tables, once, before any other call, and returns the fastest way of this CPU. */
static crc32c_function crc32c_choose(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc32c_times_x(crc);
        crc32c_table[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t crc = crc32c_table[k - 1][byte];
            crc32c_table[k][byte] = (crc >> 8) ^ crc32c_table[0][crc & 255];
        }
    crc32c_long = (crc32c_shift){crc32c_power(CRC32C_LONG), crc32c_power(2 * CRC32C_LONG)};
    crc32c_short = (crc32c_shift){crc32c_power(CRC32C_SHORT), crc32c_power(2 * CRC32C_SHORT)};
    return crc32c_supported() ? crc32c_hardware : crc32c_portable;
}
