/* What the machine charges, in ns, for scripts/bench.py, which compiles this and reads the four figures from stdout: one uncontended
 * lock and unlock of a System V semaphore with and without SEM_UNDO, the same of a word in memory taken by the instructions of
 * memcache_shm/storage/locks.pyx, and one load from a random place of 16 MiB of shared memory. */
#include "atomics.h"

#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define PAIRS 200000
#define LINE_BYTES 64
#define LINES (16 * 1024 * 1024 / LINE_BYTES)

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double since_ns(uint64_t start, int times)
{
    return (double)(clock_ns(CLOCK_MONOTONIC) - start) / times;
}

static double semaphore_pair_ns(short flags)
{
    int set = semget(IPC_PRIVATE, 1, 0600);
    struct sembuf lock = {0, -1, flags}, unlock = {0, 1, flags};
    uint64_t start;
    double taken_ns;
    if (set < 0 || semop(set, &unlock, 1) != 0)
        fail("bench_machine: semaphore");
    start = clock_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < PAIRS; i++)
        if (semop(set, &lock, 1) != 0 || semop(set, &unlock, 1) != 0)
            break;
    taken_ns = since_ns(start, PAIRS);
    if (semctl(set, 0, GETVAL) != 1)
        fail("bench_machine: semop");
    semctl(set, 0, IPC_RMID);
    return taken_ns;
}

static double word_pair_ns(void)
{
    static uint32_t word;
    uint64_t start = clock_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < PAIRS * 10; i++)
        if (!cas32(&word, 0, 1) || exchange32(&word, 0) != 1)
            fail("bench_machine: word");
    return since_ns(start, PAIRS * 10);
}

/* Each line holds the number of the next one to load; all lines form one cycle (Sattolo's shuffle). */
static double random_load_ns(void)
{
    int id = shmget(IPC_PRIVATE, (size_t)LINES * LINE_BYTES, 0600);
    char *memory = id < 0 ? (char *)-1 : shmat(id, NULL, 0);
    uint32_t *order = malloc(LINES * sizeof *order);
    volatile uint32_t at = 0;
    uint64_t start;
    if (memory == (char *)-1 || order == NULL || shmctl(id, IPC_RMID, NULL) != 0)
        fail("bench_machine: shared memory");
    for (uint32_t i = 0; i < LINES; i++)
        order[i] = i;
    for (uint32_t i = LINES - 1; i > 0; i--) {
        uint32_t j = (uint32_t)random() % i, swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
    for (uint32_t i = 0; i < LINES; i++)
        *(uint32_t *)(memory + (size_t)i * LINE_BYTES) = order[i];
    start = clock_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < LINES; i++)
        at = *(uint32_t *)(memory + (size_t)at * LINE_BYTES);
    return since_ns(start, LINES);
}

int main(void)
{
    double undo_ns = semaphore_pair_ns(SEM_UNDO), plain_ns = semaphore_pair_ns(0), word_ns = word_pair_ns();
    printf("%.1f %.1f %.1f %.1f\n", undo_ns, plain_ns, word_ns, random_load_ns());
    return 0;
}
