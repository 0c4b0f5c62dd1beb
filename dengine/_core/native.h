/* What Cython cannot say: branch hints and atomics with their memory order. */
#pragma once
#include <stdint.h>
#include "live.h"

#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

static inline uint64_t load_acquire(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
static inline void store_release(uint64_t *at, uint64_t x) { __atomic_store_n(at, x, __ATOMIC_RELEASE); }
static inline int32_t add_relaxed(int32_t *at, int32_t x) { return __atomic_add_fetch(at, x, __ATOMIC_RELAXED); }
static inline int32_t add_acq_rel(int32_t *at, int32_t x) { return __atomic_add_fetch(at, x, __ATOMIC_ACQ_REL); }
static inline void fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* Structs that one thread reads while another writes, under a sequence lock: word by word, since a
   torn copy is thrown away but must be no race. n: bytes, a multiple of 8. */
typedef uint64_t __attribute__((may_alias)) any_word;

static inline void copy_release(void *to, const void *from, uint64_t n) {
    for (uint64_t i = 0; i < n / sizeof(any_word); i++)
        __atomic_store_n((any_word *)to + i, ((const any_word *)from)[i], __ATOMIC_RELEASE);
}
static inline void copy_acquire(void *to, const void *from, uint64_t n) {
    for (uint64_t i = 0; i < n / sizeof(any_word); i++)
        ((any_word *)to)[i] = __atomic_load_n((const any_word *)from + i, __ATOMIC_ACQUIRE);
}
