/* What one uncontended lock and unlock costs, in ns: a System V semaphore with and without SEM_UNDO, and a word in memory taken
 * by the instructions of memcache_shm/storage/locks.pyx. scripts/bench.py compiles it and reads the three figures from stdout. */
#include "atomics.h"

#include <sys/ipc.h>
#include <sys/sem.h>

#define PAIRS 200000

static double semaphore_pair_ns(int set, short flags)
{
    struct sembuf lock = {0, -1, flags}, unlock = {0, 1, flags};
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < PAIRS; i++)
        if (semop(set, &lock, 1) != 0 || semop(set, &unlock, 1) != 0) {
            perror("bench_locks: semop");
            semctl(set, 0, IPC_RMID);
            exit(1);
        }
    return (double)(clock_ns(CLOCK_MONOTONIC) - start) / PAIRS;
}

static double word_pair_ns(void)
{
    static uint32_t word;
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < PAIRS * 10; i++)
        if (!cas32(&word, 0, 1) || exchange32(&word, 0) != 1)
            exit(1);
    return (double)(clock_ns(CLOCK_MONOTONIC) - start) / (PAIRS * 10);
}

int main(void)
{
    int set = semget(IPC_PRIVATE, 1, 0600);
    union {
        int val;
    } one = {1};
    double undo_ns, plain_ns;
    if (set < 0 || semctl(set, 0, SETVAL, one) != 0) {
        perror("bench_locks: semget");
        return 1;
    }
    undo_ns = semaphore_pair_ns(set, SEM_UNDO);
    plain_ns = semaphore_pair_ns(set, 0);
    semctl(set, 0, IPC_RMID);
    printf("%.1f %.1f %.1f\n", undo_ns, plain_ns, word_pair_ns());
    return 0;
}
