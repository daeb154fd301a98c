/* The few C lines of memcache_shm: atomic loads and stores, fences, the futex call, the fork counter.
 * Everything else is Cython. Pairings of the fences are argued in docs/architecture.md ("Memory order"). */
#ifndef MEMCACHE_SHM_ATOMICS_H
#define MEMCACHE_SHM_ATOMICS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define load_acquire64(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_relaxed64(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define store_release64(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define store_relaxed64(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define load_acquire32(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_relaxed32(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define store_release32(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define store_relaxed32(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define fetch_add64(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define fetch_add32(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define exchange32(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
#define fence_acquire() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define fence_release() __atomic_thread_fence(__ATOMIC_RELEASE)
#define fence_full() __atomic_thread_fence(__ATOMIC_SEQ_CST)

static inline int cas32(uint32_t *p, uint32_t old, uint32_t new_)
{
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline int cas64_relaxed(uint64_t *p, uint64_t old, uint64_t new_)
{
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static inline void cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    __asm__ __volatile__("" ::: "memory");
#endif
}

/* Shared futex (no FUTEX_PRIVATE_FLAG: the word lies in memory of several processes). */
static inline int futex_wait_ns(uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    struct timespec t = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    return (int)syscall(SYS_futex, word, FUTEX_WAIT, expected, &t, NULL, 0);
}

static inline int futex_wake(uint32_t *word, int count)
{
    return (int)syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
}

static inline uint64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#ifdef MEMCACHE_SHM_DEBUG
#define DEBUG_CHECKS 1
#define invariant(condition, text) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "memcache_shm: invariant broken: %s (%s:%d)\n", (text), __FILE__, __LINE__); \
            abort(); \
        } \
    } while (0)
#else
#define DEBUG_CHECKS 0
#define invariant(condition, text) ((void)0)
#endif

#endif
