/* Stepping a process through one call and killing it at a chosen instruction (x86-64, Linux).
 *
 * The traced child is a fork of the tracer: both have every library and the table's segment at the same addresses. A child stops
 * itself before the call and after it; what lies between the first and the last instruction of the watched libraries is the window.
 * Kill point k is where k instructions of the window have run. To get there quickly a debug register stops the child at the wanted
 * address; where those are refused, every instruction is stepped. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct range {
    uint64_t start, end;
};

struct change { /* a word of the segment has another value after `step` instructions */
    uint32_t step, word;
    uint64_t value;
};

enum { STOPPED = 1, FINISHED = 0, FAILED = -1, NO_ROOM = -2, OUTSIDE = 500 };

/* A child that stands before its call; 0 in the child itself, which goes on only when it is traced. -1: no fork. */
int spawn(void)
{
    int status;
    pid_t tracer = getpid(), pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != tracer || ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
            _exit(120);
        raise(SIGSTOP);
        return 0;
    }
    if (pid > 0) {
        waitpid(pid, &status, 0);
        if (!WIFSTOPPED(status) || ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL) != 0)
            return -1;
    }
    return pid;
}

/* The child's way out: one more stop, so that the tracer sees the call's end. */
void finish(int status)
{
    raise(SIGSTOP);
    _exit(status);
}

static int await(pid_t pid)
{
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        return FAILED;
    if (WSTOPSIG(status) == SIGTRAP)
        return STOPPED;
    return WSTOPSIG(status) == SIGSTOP ? FINISHED : FAILED;
}

static int step(pid_t pid)
{
    return ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0 ? await(pid) : FAILED;
}

static uint64_t where(pid_t pid)
{
    return (uint64_t)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), 0);
}

static int within(const struct range *ranges, int n, uint64_t rip)
{
    for (int i = 0; i < n; i++)
        if (rip >= ranges[i].start && rip < ranges[i].end)
            return 1;
    return 0;
}

/* Let the child run to the first of up to four addresses. */
static int run_in(pid_t pid, const uint64_t *entries, int n)
{
    uint64_t control = 0;
    for (int i = 0; i < n; i++) {
        control |= 1u << (2 * i);
        if (ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[i]), entries[i]) != 0)
            return NO_ROOM;
    }
    if (ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), control) != 0)
        return NO_ROOM;
    return ptrace(PTRACE_CONT, pid, 0, 0) == 0 ? await(pid) : FAILED;
}

/* Bring it to the window's beginning: one of `entries`, or without them stepped to. */
int step_in(int pid, const struct range *ranges, int n, const uint64_t *entries, int n_entries)
{
    int r;
    if (n_entries > 0 && (r = run_in(pid, entries, n_entries)) != NO_ROOM)
        return r;
    while ((r = step(pid)) == STOPPED)
        if (within(ranges, n, where(pid)))
            return STOPPED;
    return r;
}

/* Compare the segment with the shadow and note the words that changed. */
static long note(const uint64_t *segment, uint64_t *shadow, size_t words, uint32_t at, struct change *changes, long n, long most)
{
    enum { BLOCK = 512 };
    for (size_t block = 0; block < words; block += BLOCK) {
        size_t end = block + BLOCK < words ? block + BLOCK : words;
        if (memcmp(segment + block, shadow + block, (end - block) * 8) == 0)
            continue;
        for (size_t i = block; i < end; i++) {
            if (segment[i] == shadow[i])
                continue;
            if (n == most)
                return NO_ROOM;
            shadow[i] = segment[i];
            changes[n++] = (struct change){at, (uint32_t)i, segment[i]};
        }
    }
    return n;
}

/* Step through the window of a child that stands at its beginning. rips[k]: the instruction at kill point k. Returns the number of
 * kill points; the last is right behind the last watched instruction. The window has ended when none came for a while: nothing that
 * the watched libraries call takes so long, but string instructions, which repeat themselves. */
long trace(int pid, const struct range *ranges, int n, const uint64_t *segment, uint64_t *shadow, uint64_t bytes, uint64_t *rips,
           long most, struct change *changes, long most_changes, long *n_changes)
{
    long k = 0, last = 0, outside = 0;
    int r = STOPPED;
    *n_changes = 0;
    rips[0] = where(pid);
    while (outside < OUTSIDE && (r = step(pid)) == STOPPED) {
        if (++k == most)
            return NO_ROOM;
        rips[k] = where(pid);
        outside += rips[k] != rips[k - 1];
        if (within(ranges, n, rips[k])) {
            last = k;
            outside = 0;
        }
        *n_changes = note(segment, shadow, bytes / 8, (uint32_t)k, changes, *n_changes, most_changes);
        if (*n_changes < 0)
            return NO_ROOM;
    }
    return r != FAILED ? last + 2 : FAILED;
}

/* Watch one address; 0 where debug registers are refused. */
static int watch(pid_t pid, uint64_t rip)
{
    return ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[0]), rip) == 0 &&
           ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), 1) == 0;
}

/* Let the child run to the `visits`-th time it comes to an address. */
int run_to(int pid, uint64_t rip, uint64_t visits)
{
    int r = STOPPED;
    if (visits > 0 && !watch(pid, rip))
        return NO_ROOM;
    while (visits > 0) {
        r = ptrace(PTRACE_CONT, pid, 0, 0) == 0 ? await(pid) : FAILED;
        if (r != STOPPED)
            return r;
        visits -= where(pid) == rip;
    }
    return r;
}

/* Let it run `count` single instructions; STOPPED when it then stands at `rip`. */
int step_to(int pid, uint64_t count, uint64_t rip)
{
    int r = STOPPED;
    while (r == STOPPED && count-- > 0)
        r = step(pid);
    return r == STOPPED && where(pid) != rip ? FAILED : r;
}

/* Let it step until a word of the segment is not 0. */
int step_until(int pid, const volatile uint32_t *word)
{
    int r = STOPPED;
    while (r == STOPPED && *word == 0)
        r = step(pid);
    return r;
}

/* Let it go on to its end; the exit status of the call, or -1. */
int complete(int pid)
{
    int status;
    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[7]), 0);
    for (;;) {
        if (ptrace(PTRACE_CONT, pid, 0, 0) != 0 || waitpid(pid, &status, 0) != pid)
            return FAILED;
        if (WIFEXITED(status))
            return WEXITSTATUS(status);
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP)
            return FAILED;
    }
}

/* SIGKILL, and reap: the kernel has undone the semaphore by then. 0 when it died of it. */
int destroy(int pid)
{
    int status;
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) == pid)
        if (WIFSIGNALED(status))
            return WTERMSIG(status) == SIGKILL ? 0 : FAILED;
        else if (WIFEXITED(status))
            return FAILED;
    return FAILED;
}

/* Take hold of a process that is no child and sleeps in epoll_wait, which ends with EINTR when it goes on. */
int attach(int pid)
{
    int status;
    if (ptrace(PTRACE_ATTACH, pid, 0, 0) != 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        return FAILED;
    return STOPPED;
}

/* It is about to sleep in epoll_wait. */
static int at_sleep(pid_t pid)
{
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, pid, 0, &regs) != 0 || (regs.rax != SYS_epoll_wait && regs.rax != SYS_epoll_pwait) || regs.r10 == 0)
        return 0;
    return (ptrace(PTRACE_PEEKTEXT, pid, regs.rip, 0) & 0xffff) == 0x050f; /* syscall */
}

/* Let it run up to `most` single instructions, until it is about to sleep for the second time: something waits for it to be found by the
 * first. rips[k]: the instruction at kill point k. Returns how many were run. */
long walk(int pid, long most, uint64_t *rips)
{
    int sleeps = 0;
    for (long k = 0; k < most; k++) {
        rips[k] = where(pid);
        if (at_sleep(pid) && sleeps++ == 1)
            return k;
        if (step(pid) != STOPPED)
            return FAILED;
    }
    return most;
}

/* Bring a copy of the segment from kill point to kill point; the index of the first change not applied. */
long apply(uint64_t *copy, const struct change *changes, long from, long n, uint32_t upto)
{
    while (from < n && changes[from].step <= upto) {
        copy[changes[from].word] = changes[from].value;
        from++;
    }
    return from;
}

/* The first word in which segment and copy differ where the mask has ones; -1: none. */
long differs(const uint64_t *segment, const uint64_t *copy, const uint64_t *mask, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes / 8; i++)
        if ((segment[i] ^ copy[i]) & mask[i])
            return (long)i;
    return -1;
}

/* A mapping of the segment of the tracer's own, which its children inherit; NULL when it cannot be had. */
void *map_segment(int shmid)
{
    void *at = shmat(shmid, NULL, 0);
    return at == (void *)-1 ? NULL : at;
}

int unmap_segment(const void *at)
{
    return shmdt(at);
}
