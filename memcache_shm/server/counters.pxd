"""Figures of one daemon, in a mapping that supervisor and workers share: nothing here belongs to the table."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from memcache_shm.server.events cimport Events
from memcache_shm.server.prefixes cimport Prefixes
from memcache_shm.server.roster cimport Roster

cdef enum:
    TABLE_FIGURES = 48          # room for the table's figures at the last `stats reset`
    SUPERVISED_MAX = 8          # room for the supervisor's own figures


cdef struct WorkerFigures:      # written by its worker only, unless said otherwise
    uint64_t handed             # connections given to it, by the supervisor only
    uint64_t closed             # connections it closed; handed - closed are open
    uint64_t bytes_read
    uint64_t bytes_written
    uint64_t cmd_meta
    uint64_t too_large          # storage commands refused by their size, before the table saw them
    uint64_t yields             # turns that ended because others were waiting
    uint64_t busy               # requests that failed because a shard's lock did not come
    uint64_t pid                # by the supervisor only
    uint64_t up                 # 1 from the worker's first wait on; zeroed by the supervisor before a fork
    uint64_t beats              # advances with every request and every round of the loop: the worker lives
    uint64_t lost               # connections it could not take for want of descriptors
    uint64_t generation         # of the table it ought to serve, by the supervisor only
    uint64_t leaving            # 1 once it takes no more connections; zeroed by the supervisor before a fork
    uint64_t forgiven           # `lost` when this very worker was forked, by the supervisor only
    uint64_t buffer_bytes       # handed out by its pool at the moment
    uint64_t buffers_refused    # times that its pool was at its limit, or memory was out
    uint64_t idle_kicks         # connections closed for -o idle_timeout
    uint64_t auth_cmds          # logins tried
    uint64_t auth_errors        # of these, wrong ones
    uint64_t tls_sessions       # TLS handshakes that resumed no earlier session
    uint64_t tls_failures       # TLS handshakes that failed
    uint64_t tls_broken         # connections that TLS ended after its handshake
    uint64_t subscribers        # connections that hear of changes at the moment, and
    uint64_t patterns           # ... their patterns
    uint64_t copies             # connections that copy the table and follow its changes at the moment
    uint64_t notified           # changes told, for each who was
    uint64_t merged             # changes passed over, since a later one of the same key was to follow
    uint64_t losses             # times that somebody was told to have lost something
    uint64_t channels           # open at the moment, and
    uint64_t channels_opened    # ... ever
    uint64_t spare[1]           # to whole cache lines


cdef struct DaemonFigures:      # written by the supervisor only, unless said otherwise
    uint64_t accepted
    uint64_t rejected           # above the connection limit
    uint64_t no_descriptor      # times accepting paused for want of descriptors
    uint64_t paused_us
    uint64_t verbosity          # by any worker
    uint64_t started_s          # monotonic clock
    uint64_t dropped            # connections of workers that died
    uint64_t accept_errno       # why accepting paused last
    uint64_t supervised[SUPERVISED_MAX]     # by the names in counters.pyx
    int64_t shmid               # of the table that took the place of a removed one; before the workers' generation
    int64_t semid
    uint8_t uuid[16]
    uint64_t reload             # advances at each SIGHUP: files named on the command line are to be read again
    int64_t pid                 # the supervisor's
    uint64_t full               # times accepting paused because as many were connected as may be (-o no_maxconns_fast)
    uint64_t spare[1]           # to whole cache lines: the workers' blocks follow
    uint64_t base[TABLE_FIGURES]    # table figures at the last reset, by any worker, the last one wins


cdef class Counters:
    cdef DaemonFigures *daemon
    cdef WorkerFigures *worker      # one block a worker
    cdef readonly int workers
    cdef readonly Events events         # what belongs to one daemon as well, in mappings of their own
    cdef readonly Prefixes prefixes
    cdef readonly Roster roster
    cdef object _mapping            # keeps the memory
    cdef uint64_t _over_all(self, const uint64_t *first) noexcept nogil
    cdef uint64_t open_connections(self, int which) noexcept nogil
