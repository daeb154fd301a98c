# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Figures of one daemon, in an anonymous mapping made before the fork.

Each word has one writer and is read with plain loads: a reader may be a moment behind, never torn. A worker that dies leaves
its sums; its successor goes on adding to them.
"""

import mmap
import os
import time

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from memcache_shm.server.counters cimport SUPERVISED_MAX, TABLE_FIGURES, DaemonFigures, WorkerFigures
from memcache_shm.server.events cimport Events
from memcache_shm.server.prefixes cimport Prefixes
from memcache_shm.server.roster cimport Roster
from memcache_shm.storage.atomics cimport load_acquire64, store_release64

#: What only the supervisor counts, as `stats shm` names it.
SUPERVISED = (
    "shm_workers_killed",       # ended by a signal, whoever sent it
    "shm_workers_exited",       # ended by themselves while the daemon ran
    "shm_workers_stuck",        # found without a sign of life
    "shm_start_failures",       # descriptors or the fork refused by the kernel
    "shm_shards_swept",         # repaired at once after a worker's death
    "shm_tables_renewed",       # removed from outside and made anew
)
assert len(SUPERVISED) <= SUPERVISED_MAX
assert sizeof(DaemonFigures) % 64 == 0 and sizeof(WorkerFigures) % 64 == 0, "a worker's figures share no cache line with another's"


cdef class Counters:

    def __init__(self, int workers, *, max_connections=1024, listeners=1, delimiter=":"):
        cdef unsigned char[::1] view
        self.workers = workers
        self.events = Events(workers)
        self.prefixes = Prefixes(delimiter)
        self.roster = Roster(max_connections, listeners)
        self._mapping = mmap.mmap(-1, sizeof(DaemonFigures) + workers * sizeof(WorkerFigures))
        view = self._mapping
        self.daemon = <DaemonFigures *> &view[0]
        self.worker = <WorkerFigures *> (self.daemon + 1)
        self.daemon.pid = os.getpid()
        self.daemon.started_s = <uint64_t> time.monotonic()

    cdef uint64_t open_connections(self, int which) noexcept nogil:
        return self.worker[which].handed - self.worker[which].closed

    def begin(self, int which):
        """Before a worker is forked into this place: its predecessor's connections are gone."""
        cdef WorkerFigures *figures = &self.worker[which]
        self.events.begin(which)
        self.roster.forget(which)
        self.daemon.dropped += self.open_connections(which)
        figures.closed = figures.handed
        figures.buffer_bytes = 0
        figures.subscribers = figures.patterns = figures.copies = figures.channels = 0
        figures.forgiven = figures.lost
        figures.up = 0
        figures.leaving = 0
        figures.generation = 0

    def set_pid(self, int which, int pid):
        self.worker[which].pid = pid

    def is_up(self, int which):
        return self.worker[which].up != 0

    def beats(self, int which):
        return load_acquire64(&self.worker[which].beats)

    def lost(self):
        cdef int which
        return sum(self.worker[which].lost for which in range(self.workers))

    def pauses(self):
        return self.daemon.no_descriptor, self.daemon.accept_errno

    def note(self, name, uint64_t count=1):
        self.daemon.supervised[SUPERVISED.index(name)] += count

    def succeed(self, int shmid, int semid, str uuid):
        cdef bytes raw = bytes.fromhex(uuid)
        cdef int which
        self.daemon.shmid = shmid
        self.daemon.semid = semid
        memcpy(self.daemon.uuid, <const char *> raw, 16)
        for which in range(self.workers):
            store_release64(&self.worker[which].generation, self.worker[which].generation + 1)

    def successor(self):
        return self.daemon.shmid, self.daemon.semid, (<bytes> self.daemon.uuid[:16]).hex()

    @property
    def reloads(self):
        return load_acquire64(&self.daemon.reload)

    def ask_reload(self):
        store_release64(&self.daemon.reload, self.daemon.reload + 1)

    def pids(self):
        return [self.worker[which].pid for which in range(self.workers)]

    @property
    def verbosity(self):
        return self.daemon.verbosity

    @verbosity.setter
    def verbosity(self, level):
        self.daemon.verbosity = level

    @property
    def uptime_s(self):
        return max(1, int(time.monotonic()) - self.daemon.started_s)

    cdef uint64_t _over_all(self, const uint64_t *first) noexcept nogil:
        """The sum over all workers of the field that is the first one's `first`."""
        cdef uint64_t total = 0
        cdef int which
        for which in range(self.workers):
            total += first[which * (sizeof(WorkerFigures) // sizeof(uint64_t))]
        return total

    def sums(self):
        cdef WorkerFigures *one = self.worker
        return {
            "curr_connections": self._over_all(&one.handed) - self._over_all(&one.closed),
            "total_connections": self.daemon.accepted,
            "rejected_connections": self.daemon.rejected,
            "listen_disabled_num": self.daemon.no_descriptor + self.daemon.full,
            "time_in_listen_disabled_us": self.daemon.paused_us,
            "bytes_read": self._over_all(&one.bytes_read),
            "bytes_written": self._over_all(&one.bytes_written),
            "cmd_meta": self._over_all(&one.cmd_meta),
            "store_too_large": self._over_all(&one.too_large),
            "conn_yields": self._over_all(&one.yields),
            "read_buf_bytes": self._over_all(&one.buffer_bytes),
            "read_buf_oom": self._over_all(&one.buffers_refused),
            "idle_kicks": self._over_all(&one.idle_kicks),
            "auth_cmds": self._over_all(&one.auth_cmds),
            "auth_errors": self._over_all(&one.auth_errors),
            "ssl_new_sessions": self._over_all(&one.tls_sessions),
            "ssl_handshake_errors": self._over_all(&one.tls_failures),
            "ssl_proto_errors": self._over_all(&one.tls_broken),
            "shm_busy": self._over_all(&one.busy),
            "shm_channels": self._over_all(&one.channels),
            "shm_channels_opened": self._over_all(&one.channels_opened),
            "shm_subscribers": self._over_all(&one.subscribers),
            "shm_patterns": self._over_all(&one.patterns),
            "shm_sync_clients": self._over_all(&one.copies),
            "shm_notified": self._over_all(&one.notified),
            "shm_merged": self._over_all(&one.merged),
            "shm_lost": self._over_all(&one.losses),
            "shm_dropped_connections": self.daemon.dropped + self._over_all(&one.lost),
            **self.events.sums(),
            **{name: self.daemon.supervised[at] for at, name in enumerate(SUPERVISED)},
        }

    def set_base(self, figures):
        for at, figure in enumerate(figures[:TABLE_FIGURES]):
            self.daemon.base[at] = figure

    def base(self):
        return [self.daemon.base[at] for at in range(TABLE_FIGURES)]
