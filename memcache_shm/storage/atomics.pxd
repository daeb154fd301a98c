"""Atomic access to shared words, the futex and the clocks (declarations of atomics.h)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "atomics.h" nogil:
    uint64_t load_acquire64(uint64_t *p)
    uint64_t load_relaxed64(uint64_t *p)
    void store_release64(uint64_t *p, uint64_t v)
    void store_relaxed64(uint64_t *p, uint64_t v)
    uint32_t load_acquire32(uint32_t *p)
    uint32_t load_relaxed32(uint32_t *p)
    void store_release32(uint32_t *p, uint32_t v)
    void store_relaxed32(uint32_t *p, uint32_t v)
    uint64_t fetch_add64(uint64_t *p, uint64_t v)
    uint32_t fetch_add32(uint32_t *p, uint32_t v)
    uint32_t exchange32(uint32_t *p, uint32_t v)
    void fence_acquire()
    void fence_release()
    void fence_full()
    bint cas32(uint32_t *p, uint32_t old, uint32_t new)
    bint cas64_relaxed(uint64_t *p, uint64_t old, uint64_t new)
    void cpu_pause()
    int futex_wait_ns(uint32_t *word, uint32_t expected, int64_t timeout_ns)
    int futex_wake(uint32_t *word, int count)
    uint64_t clock_ns(int clock_id)
    int CLOCK_BOOTTIME
    int CLOCK_MONOTONIC
    int CLOCK_MONOTONIC_COARSE
    int CLOCK_REALTIME
    bint DEBUG_CHECKS
    void invariant(bint condition, const char *text)
    void __builtin_prefetch(const void *p)
    int __builtin_clz(unsigned int x)
    int __builtin_clzll(unsigned long long x)
    int __builtin_ctzll(unsigned long long x)
    int __builtin_popcountll(unsigned long long x)
