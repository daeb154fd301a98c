"""System calls of the daemon, declared only."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLET
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        void *ptr
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int what, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout_ms)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL
        MSG_DONTWAIT
        MSG_CMSG_CLOEXEC
        SOL_SOCKET
        SCM_RIGHTS
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SHUT_WR
        AF_INET
        AF_INET6
        AF_UNIX
    struct iovec:
        void *iov_base
        size_t iov_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct sockaddr:
        uint16_t sa_family
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    unsigned char *CMSG_DATA(cmsghdr *header)
    size_t CMSG_LEN(size_t size)
    size_t CMSG_SPACE(size_t size)
    ssize_t recv(int fd, void *dst, size_t size, int flags)
    ssize_t send(int fd, const void *source, size_t size, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int accept4(int fd, sockaddr *address, uint32_t *size, int flags)
    int shutdown(int fd, int how)
    int getpeername(int fd, sockaddr *address, uint32_t *size)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *source, char *dst, uint32_t size)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<sys/prctl.h>" nogil:
    enum:
        PR_SET_PDEATHSIG
    int prctl(int option, unsigned long argument)

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *out)
    int nanosleep(const timespec *span, timespec *left)

cdef extern from "<signal.h>" nogil:
    enum:
        SIGHUP
        SIGTERM
        SIG_SETMASK
    ctypedef struct sigset_t:
        pass
    int kill(int pid, int number)
    int sigfillset(sigset_t *signals)
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *before)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)

cdef extern from "<pthread.h>" nogil:
    enum:
        PTHREAD_CREATE_DETACHED
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int pthread_attr_init(pthread_attr_t *how)
    int pthread_attr_destroy(pthread_attr_t *how)
    int pthread_attr_setdetachstate(pthread_attr_t *how, int state)
    int pthread_attr_setstacksize(pthread_attr_t *how, size_t size)
    int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *) noexcept nogil, void *argument)
