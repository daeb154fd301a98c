# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""A file written by a child process, while this one goes on.

The child is a copy of a process with threads, whose locks - the interpreter's, the allocator's - may be held by threads that it does not
have. So it makes calls that are async-signal-safe (signal-safety(7)) and nothing else; its memory, the data too, is the kernel's copy.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno
from libc.stddef cimport size_t
from libc.string cimport memset
from posix.types cimport mode_t, pid_t

cdef extern from "<fcntl.h>" nogil:
    enum:
        O_CLOEXEC
        O_CREAT
        O_DIRECTORY
        O_EXCL
        O_NOFOLLOW
        O_RDONLY
        O_WRONLY
    int open(const char *path, int flags, mode_t mode)

cdef extern from "<stdio.h>" nogil:
    int rename(const char *old, const char *new)

cdef extern from "<unistd.h>" nogil:
    pid_t fork()
    ssize_t write(int descriptor, const void *data, size_t size)
    int fsync(int descriptor)
    int close(int descriptor)
    int unlink(const char *path)
    void _exit(int status)

ctypedef void (*handler_t)(int) noexcept nogil

cdef extern from "<signal.h>" nogil:
    enum:
        SIGHUP
        SIGINT
        SIGTERM
        SIGUSR1
        SIG_BLOCK
        SIG_SETMASK
        NSIG
    handler_t SIG_DFL
    handler_t SIG_IGN
    ctypedef struct sigset_t:
        pass
    struct sigaction_t "sigaction":
        handler_t sa_handler
    int sigaction(int number, const sigaction_t *new, sigaction_t *old)
    int sigemptyset(sigset_t *signals)
    int sigfillset(sigset_t *signals)
    int pthread_sigmask(int how, const sigset_t *new, sigset_t *old)

import os

cdef enum:
    PIECE_BYTES = 1 << 30   # the kernel takes less than 2 GiB at a time


cdef void _set_signals() noexcept nogil:
    """Nothing of the parent's handlers. What asks the parent to stop may reach its whole process group: it decides, and waits for this."""
    cdef sigaction_t action
    cdef sigset_t none
    cdef int number
    for number in range(1, NSIG):
        if sigaction(number, NULL, &action) == 0 and action.sa_handler != SIG_IGN and action.sa_handler != SIG_DFL:
            memset(&action, 0, sizeof(sigaction_t))
            action.sa_handler = SIG_DFL
            sigaction(number, &action, NULL)
    memset(&action, 0, sizeof(sigaction_t))
    action.sa_handler = SIG_IGN
    sigaction(SIGINT, &action, NULL)
    sigaction(SIGTERM, &action, NULL)
    sigaction(SIGHUP, &action, NULL)
    sigaction(SIGUSR1, &action, NULL)
    sigemptyset(&none)
    pthread_sigmask(SIG_SETMASK, &none, NULL)


cdef int _write_all(int descriptor, const char *data, size_t size) noexcept nogil:
    """0 or the error number."""
    cdef size_t done = 0
    cdef ssize_t n
    while done < size:
        n = write(descriptor, data + done, min(size - done, <size_t>PIECE_BYTES))
        if n >= 0:
            done += <size_t>n
        elif errno != EINTR:
            return errno
    return 0


cdef int _keep_name(const char *directory) noexcept nogil:
    """Wait until the directory's entries are on the disk. 0 or the error number."""
    cdef int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
    cdef int problem = 0
    if descriptor < 0:
        return errno
    if fsync(descriptor) != 0:
        problem = errno
    close(descriptor)
    return problem


cdef int _write_file(
    int descriptor, const char *temporary, const char *path, const char *directory, const char *data, size_t size
) noexcept nogil:
    """The child's work. 0 or the error number. Only who waits for the child removes the temporary file: that it is gone shall tell."""
    cdef int problem = _write_all(descriptor, data, size)
    if problem == 0 and fsync(descriptor) != 0:
        problem = errno
    if close(descriptor) != 0 and problem == 0:
        problem = errno
    if problem == 0 and rename(temporary, path) != 0:
        problem = errno
    return problem or _keep_name(directory)


def write_in_child(bytes temporary not None, bytes path not None, bytes data not None):
    """Fork a child that writes `data` to `path`: whole, or not at all; its pid, at once.

    The file is written as `temporary`, which must not exist and is in the same directory, and renamed when it is on the disk. The child's
    exit status is 0, or the number of its error. It is there before the child is: whatever ends that, there is `temporary`, or the whole
    file has got its name. Raises OSError when `temporary` cannot be made or the kernel refuses a child; then there is none.
    """
    cdef bytes parent = os.path.dirname(path) or b"."
    cdef const char *temporary_name = PyBytes_AS_STRING(temporary)
    cdef const char *name = PyBytes_AS_STRING(path)
    cdef const char *directory = PyBytes_AS_STRING(parent)
    cdef const char *content = PyBytes_AS_STRING(data)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(data)
    cdef sigset_t every, before
    cdef pid_t pid
    cdef int descriptor, problem
    if b"\0" in temporary or b"\0" in path:
        raise ValueError("a path has no NUL")
    descriptor = open(temporary_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o666)
    if descriptor < 0:
        problem = errno
        raise OSError(problem, os.strerror(problem))
    with nogil:
        sigfillset(&every)
        pthread_sigmask(SIG_BLOCK, &every, &before)     # no handler of ours may run in the child
        pid = fork()
        if pid == 0:
            _set_signals()
            _exit(_write_file(descriptor, temporary_name, name, directory, content, size))
        problem = errno
        close(descriptor)
        if pid < 0:
            unlink(temporary_name)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
    if pid < 0:
        raise OSError(problem, f"no child process to write it: {os.strerror(problem)}")
    return pid
