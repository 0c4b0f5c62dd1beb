/* What Cython cannot say: branch hints and atomics with their memory order. */
#pragma once
#include <stdint.h>

#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

static inline uint64_t load_acquire(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
static inline void store_release(uint64_t *at, uint64_t x) { __atomic_store_n(at, x, __ATOMIC_RELEASE); }
static inline int32_t add_relaxed(int32_t *at, int32_t x) { return __atomic_add_fetch(at, x, __ATOMIC_RELAXED); }
static inline int32_t add_acq_rel(int32_t *at, int32_t x) { return __atomic_add_fetch(at, x, __ATOMIC_ACQ_REL); }
static inline void fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
