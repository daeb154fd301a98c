# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Shard locks: one word a shard in the segment, and the semaphore set as the kernel's word on who is alive.

Each process that writes owns one semaphore of the table's set: it takes the unit at its first write (SEM_UNDO), and the kernel
gives it back when the process dies, SIGKILL included, after the dead process's last store. A shard's lock word holds the owner's
process slot and epoch, so:

- taking and giving back an uncontended lock is one compare-and-swap and one exchange, no system call (about 15 ns; a
  `semop` pair costs 270 to 800 ns, docs/performance.md);
- a word whose slot's semaphore is free, or whose slot has a newer epoch, belongs to a dead process: the next writer takes it over
  at once and repairs. A word of a living owner is never taken, however long that one is stopped;
- waiting is by futex in short slices, so that an owner that dies without waking anybody is noticed;
- exec ends all threads but keeps the undo: a lock whose owner lives but does not map the segment any more is taken over, too.

Lock word: waiters 1 bit | epoch 19 bits | process slot + 1, 12 bits. A child of fork has no undo of its own: it claims anew.
"""

from libc.errno cimport EIDRM, EINTR, EINVAL, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport FILE, fclose, fgets, fopen, snprintf, sscanf
from libc.string cimport strstr
from posix.stat cimport stat, struct_stat
from posix.unistd cimport getpid

from memcache_shm.storage.atomics cimport (
    CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, cas32, clock_ns, cpu_pause, exchange32, futex_wait_ns, futex_wake, invariant,
    load_acquire32, load_relaxed32, load_relaxed64, store_release32, store_relaxed32, store_relaxed64,
)
from memcache_shm.storage.counters cimport LOCK_BUSY, LOCK_WAITS, LOCKS_TAKEN_OVER
from memcache_shm.storage.recovery cimport OP_NONE, enter
from memcache_shm.storage.results cimport POLL, TRY, WAIT
from memcache_shm.storage.view cimport Shard, View, count, is_retired

cdef extern from "<sys/sem.h>" nogil:
    struct sembuf:
        unsigned short sem_num
        short sem_op
        short sem_flg
    int semop(int semid, sembuf *ops, size_t n)
    int semctl(int semid, int semnum, int cmd, ...)
    int SEM_UNDO
    int IPC_NOWAIT
    int GETVAL

cdef extern from "<sys/shm.h>" nogil:
    struct ipc_perm:
        unsigned short mode
    struct shmid_ds:
        ipc_perm shm_perm
    int shmctl(int shmid, int cmd, shmid_ds *buf)
    int IPC_STAT
    int SHM_DEST                    # removed, still mapped by somebody

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<errno.h>" nogil:
    int EAGAIN

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)

cdef enum:
    WAITERS = 0x80000000
    SLOT_BITS = 12
    SLOT_MASK = 0xfff
    EPOCH_MASK = 0x7ffff
    SPINS = 200                     # about a microsecond: most holds are shorter
    SLICE_NS = 5000000              # one futex wait; then look whether the owner lives
    LIMIT_NS = 1000000000           # without progress of the shard
    STUCK_LIMIT_NS = 100000000      # a wait for an owner who was found stuck before: it may just have been continued
    LOOK_CALLS = 4                  # acquisitions between two looks at the clock, and
    LOOK_NS = 100000000             # time between two looks whether segment and semaphores still exist

cdef uint32_t fork_count = 1        # of this process: its children have a larger one


cdef uint32_t claiming = 0          # 1 while one of this process's threads is in `ready_slowly`


cdef void count_fork() noexcept nogil:
    """Runs in a child of fork, which has one thread and no process slot yet."""
    global fork_count, claiming
    fork_count += 1
    claiming = 0


if pthread_atfork(NULL, NULL, count_fork) != 0:
    raise MemoryError("pthread_atfork")


cdef inline int slot_of(uint32_t word) noexcept nogil:
    return <int> (word & SLOT_MASK) - 1


cdef int change(View *v, uint32_t slot, int by) noexcept nogil:
    """One semaphore operation with undo. 0, or -1 with errno."""
    cdef sembuf op
    cdef int r
    op.sem_num = <unsigned short> slot
    op.sem_op = <short> by
    op.sem_flg = <short> (SEM_UNDO | IPC_NOWAIT)
    while True:
        r = semop(v.semid, &op, 1)
        if r == 0 or errno != EINTR:
            return r


cdef void inherit(View *v, uint32_t slot) noexcept nogil:
    """Free what an earlier owner of this process slot still holds. Others may be doing the same: the swap decides."""
    cdef uint32_t i, word
    cdef Shard *s
    for i in range(v.shards):
        s = v.shard + i
        word = load_acquire32(&s.control.lock)
        if slot_of(word) == <int> slot and (word & ~<uint32_t> WAITERS) != v.me:
            if cas32(&s.control.lock, word, v.me | WAITERS):
                count(v, LOCKS_TAKEN_OVER, 1)
                enter(v, s)
                give(v, s)


cdef int claim(View *v) noexcept nogil:
    """Take a process slot for this process: LOCKED, LOCK_NO_SLOT or LOCK_RETIRED."""
    cdef uint32_t i, slot, epoch
    cdef uint32_t start = <uint32_t> getpid() % v.process_slots
    for i in range(v.process_slots):
        slot = (start + i) % v.process_slots
        if change(v, slot, -1) == 0:
            epoch = (load_relaxed32(&v.processes[slot].epoch) + 1) & EPOCH_MASK
            store_release32(&v.processes[slot].epoch, epoch)
            store_relaxed32(&v.processes[slot].pid, <uint32_t> getpid())
            v.my_pid = <uint32_t> getpid()
            v.my_slot = slot
            v.me = (epoch << SLOT_BITS) | (slot + 1)
            v.counters = v.all_counters + slot % v.counter_blocks
            inherit(v, slot)
            store_release32(&v.fork_count, fork_count)      # last: other threads may use the slot from here on
            return LOCKED
        if errno != EAGAIN:
            return vanished(v)
    return LOCK_NO_SLOT


cdef int vanished(View *v) noexcept nogil:
    """What a failed semaphore call means. The table is retired for everybody only when the set is gone for certain, not when
    this process may not use it or has moved to another IPC namespace."""
    cdef int error = errno
    if error == EIDRM or (error == EINVAL and ipc_namespace() == v.ipc_namespace):
        retire(v)
        return LOCK_RETIRED
    return LOCK_RETIRED if error == EINVAL else LOCK_NO_SLOT


cdef void retire(View *v) noexcept nogil:
    """The table is no more: for everybody, or for this process when it may not write."""
    v.gone = True
    if not v.readonly:
        store_release32(&v.header.retired, 1)


cdef bint objects_gone(View *v) noexcept nogil:
    """Whether somebody removed segment or semaphores behind our back (ipcrm, logind); then the table is retired. The mapping
    itself lives on, so nothing but these two questions to the kernel tells."""
    cdef shmid_ds status
    if shmctl(v.shmid, IPC_STAT, &status) == 0:
        if status.shm_perm.mode & SHM_DEST and ipc_namespace() == v.ipc_namespace:
            retire(v)
        elif semctl(v.semid, 0, GETVAL) < 0:
            vanished(v)
    else:
        vanished(v)
    return v.gone


cdef void look_around(View *v) noexcept nogil:
    """Ask for the objects, ten times a second at most."""
    cdef uint64_t now = clock_ns(CLOCK_MONOTONIC_COARSE)
    if now - v.looked_ns >= LOOK_NS:
        v.looked_ns = now
        objects_gone(v)


cdef uint64_t ipc_namespace() noexcept nogil:
    """The inode of this process's IPC namespace, 0 when /proc does not tell."""
    cdef struct_stat status
    return status.st_ino if stat(b"/proc/self/ns/ipc", &status) == 0 else 0


cdef void release_slot(View *v) noexcept nogil:
    """Give the process slot back (detach). Nothing to do in a child of fork that never wrote."""
    if v.fork_count == fork_count:
        change(v, v.my_slot, 1)
    v.fork_count = 0


cdef int owner_state(View *v, uint32_t word) noexcept nogil:
    """1: the owner of this lock word is dead, 0: it lives, -1: the semaphore set cannot be asked (errno)."""
    cdef int slot = slot_of(word)
    cdef int value
    if slot < 0 or slot >= <int> v.process_slots:
        return 1                    # no such process: scribbled memory
    if ((word & ~<uint32_t> WAITERS) >> SLOT_BITS) != load_acquire32(&v.processes[slot].epoch):
        return 1
    value = semctl(v.semid, slot, GETVAL)
    if value < 0:
        return -1
    return 1 if value > 0 else 0


cdef int slot_units(View *v, uint32_t slot) noexcept nogil:
    """What the kernel says of a process slot: 1 free, 0 taken; -1: it cannot be asked."""
    return semctl(v.semid, slot, GETVAL)


cdef uint32_t owner_pid(View *v, uint32_t word) noexcept nogil:
    cdef int slot = slot_of(word)
    if slot < 0 or slot >= <int> v.process_slots:
        return 0
    return load_relaxed32(&v.processes[slot].pid)


cdef int try_once(View *v, Shard *s, uint32_t with_waiters) noexcept nogil:
    """One try on a lock word just seen free or dead. LOCKED, LOCK_WOULD_BLOCK or LOCK_RETIRED."""
    cdef uint32_t word = load_acquire32(&s.control.lock)      # before its owner's epoch
    cdef int state
    if word & ~<uint32_t> WAITERS == 0:
        return LOCKED if cas32(&s.control.lock, word, v.me | with_waiters | (word & WAITERS)) else LOCK_WOULD_BLOCK
    state = owner_state(v, word)
    if state < 0:
        return vanished(v)
    if state == 1 and cas32(&s.control.lock, word, v.me | WAITERS):
        count(v, LOCKS_TAKEN_OVER, 1)
        return LOCKED
    return LOCK_WOULD_BLOCK


cdef int spin(View *v, Shard *s) noexcept nogil:
    cdef int _spin
    for _spin in range(SPINS):
        if load_relaxed32(&s.control.lock) == 0 and cas32(&s.control.lock, 0, v.me):
            return LOCKED
        cpu_pause()
    return try_once(v, s, 0)


cdef int give_up(View *v, Shard *s, uint32_t word) noexcept nogil:
    """After a try that met `word`: LOCK_BUSY_OWNER when this very acquisition has made no progress for LIMIT_NS, LOCKED when its owner
    turns out to have gone, else LOCK_WOULD_BLOCK. Tries may lie far apart: a worker serves others between two of them."""
    cdef uint64_t now = clock_ns(CLOCK_MONOTONIC)
    cdef uint64_t progress = load_relaxed64(&s.control.progress)
    if load_relaxed32(&s.stuck_word) != word | WAITERS or load_relaxed64(&s.stuck_progress) != progress:
        store_relaxed64(&s.stuck_since_ns, now)     # first: another thread that finds the two below must not find an older time
        store_relaxed32(&s.stuck_word, word | WAITERS)
        store_relaxed64(&s.stuck_progress, progress)
        return LOCK_WOULD_BLOCK
    if now - s.stuck_since_ns < LIMIT_NS:
        return LOCK_WOULD_BLOCK
    v.busy_pid = owner_pid(v, word)
    if maps_no_more(v.busy_pid, v.shmid) and cas32(&s.control.lock, word, v.me | WAITERS):
        count(v, LOCKS_TAKEN_OVER, 1)
        return LOCKED
    return LOCK_BUSY_OWNER


cdef bint maps_no_more(uint32_t pid, int shmid) noexcept nogil:
    """Whether that process lives without our segment: it has exec'ed another program, which ended the thread that held the lock, and
    has inherited the semaphore's undo. False when /proc does not tell."""
    cdef char text[512]
    cdef unsigned long inode
    cdef bint any = False
    cdef FILE *maps
    snprintf(text, sizeof(text), b"/proc/%u/maps", pid)
    maps = fopen(text, b"re")
    if maps == NULL:
        return False
    while fgets(text, sizeof(text), maps) != NULL:
        any = True
        if strstr(text, b"/SYSV") != NULL and sscanf(text, b"%*s %*s %*s %*s %lu", &inode) == 1 and inode == <unsigned long> shmid:
            any = False
            break
    fclose(maps)
    return any


cdef void nap(Shard *s, uint32_t word) noexcept nogil:
    """Sleep while the lock word is this one of an owner, SLICE_NS at most."""
    if word & WAITERS != 0 or cas32(&s.control.lock, word, word | WAITERS):
        futex_wait_ns(&s.control.lock, word | WAITERS, SLICE_NS)


cdef void nap_for(Shard *s) noexcept nogil:
    """Sleep until the shard's owner gives it back, SLICE_NS at most. For who tries again with POLL, and has something to do in between."""
    cdef uint32_t word = load_relaxed32(&s.control.lock)
    if word & ~<uint32_t> WAITERS != 0:
        nap(s, word)


cdef int sleep_for(View *v, Shard *s) noexcept nogil:
    """Wait for the lock by futex, at most LIMIT_NS without progress of the shard. The last thing before giving up is a try: the wait
    may have been long because this process was stopped itself."""
    cdef uint64_t start = clock_ns(CLOCK_MONOTONIC)
    cdef uint32_t word
    cdef int r
    count(v, LOCK_WAITS, 1)
    while True:
        r = try_once(v, s, WAITERS)
        if r != LOCK_WOULD_BLOCK:
            return r
        word = load_relaxed32(&s.control.lock)
        if word & ~<uint32_t> WAITERS == 0:
            continue
        r = give_up(v, s, word)
        if r == LOCKED or (r == LOCK_BUSY_OWNER and clock_ns(CLOCK_MONOTONIC) - start >= STUCK_LIMIT_NS):
            return r
        nap(s, word)


cdef int ready_slowly(View *v) noexcept nogil:
    """Claim a process slot, one thread at a time."""
    cdef int r = LOCKED
    while not cas32(&claiming, 0, 1):
        sched_yield()
    if load_acquire32(&v.fork_count) != fork_count:
        r = claim(v)
    store_release32(&claiming, 0)
    return r


cdef int ready(View *v) noexcept nogil:
    """Whether this process may lock at all: the table is there, the process has its slot."""
    cdef int r
    v.calls += 1
    if v.calls % LOOK_CALLS == 0:
        look_around(v)
    if is_retired(v):
        return LOCK_RETIRED
    if load_acquire32(&v.fork_count) != fork_count:
        r = ready_slowly(v)
        if r != LOCKED:
            return r
    return LOCKED


cdef int hold(View *v, Shard *s, int wait) noexcept nogil:
    """Lock a shard as it is. `wait` is one of results.pxd's Wait."""
    cdef int r = ready(v)
    cdef uint32_t word
    if r != LOCKED:
        return r
    if not cas32(&s.control.lock, 0, v.me):
        r = spin(v, s)
        if r == LOCK_WOULD_BLOCK and wait == WAIT:
            r = sleep_for(v, s)
        elif r == LOCK_WOULD_BLOCK and wait == POLL:
            word = load_relaxed32(&s.control.lock)
            if word & ~<uint32_t> WAITERS != 0:
                r = give_up(v, s, word)
        if r == LOCK_BUSY_OWNER:
            count(v, LOCK_BUSY, 1)
        if r != LOCKED:
            return r
    store_relaxed64(&s.control.progress, load_relaxed64(&s.control.progress) + 1)
    return LOCKED


cdef int take(View *v, Shard *s, int wait) noexcept nogil:
    """Lock a shard and make it whole (repair, pending flush)."""
    cdef int r = hold(v, s, wait)
    if r == LOCKED:
        enter(v, s)
    return r


cdef void give(View *v, Shard *s) noexcept nogil:
    """Unlock and wake one waiter, if there are any."""
    cdef uint32_t word = exchange32(&s.control.lock, 0)
    invariant((word & ~<uint32_t> WAITERS) == v.me, "the lock is given back by its owner")
    if word & WAITERS:
        futex_wake(&s.control.lock, 1)


cdef uint32_t sweep(View *v) noexcept nogil:
    """Make the shards whole whose owner is dead, or whose lock is free but for an intent that nobody has seen to; how many there were."""
    cdef uint32_t i, word, swept = 0
    cdef Shard *s
    for i in range(v.shards):
        s = v.shard + i
        word = load_acquire32(&s.control.lock)
        if word & ~<uint32_t> WAITERS == 0:
            if load_relaxed32(&s.control.intent.operation) == OP_NONE:
                continue
        elif owner_state(v, word) != 1:
            continue
        if take(v, s, TRY) == LOCKED:
            give(v, s)
            swept += 1
    return swept
