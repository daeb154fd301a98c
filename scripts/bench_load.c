/* Load on a cache server at 127.0.0.1, for scripts/bench.py, which compiles it. One line on stdout: the figures.
 *
 *   bench_load requests PORT memcached|redis get|set CONNECTIONS DEPTH REQUESTS KEYS VALUE_BYTES
 *       each connection keeps DEPTH requests in flight, written by one send   -> requests done, ns taken
 *   bench_load connects PORT PROCESSES MILLISECONDS NETWORK
 *       each process connects, asks for the version, closes, again            -> connections made, ns taken
 *
 * Keys are bench:00000000 and up. Every reply is checked for its kind and length. The exit status is 1 after an error. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KEY_FORMAT "bench:%08d"
#define KEY_BYTES 14
#define KEY_DIGITS 8
#define LIMIT_S 60

struct connection {
    int fd;
    size_t received; /* of the replies in flight */
};

static struct {
    char *batch;         /* DEPTH requests, the keys' digits to be drawn */
    size_t request_bytes;
    size_t digits_at;    /* offset of the key's digits in a request */
    char reply_head[64]; /* how a good reply begins */
    size_t head_bytes;
    size_t reply_bytes;
    int depth, keys;
} load;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "bench_load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A connection to `port`; `source` (host order, 0: any) widens the space of ports for those who connect often. */
static int dial(int port, uint32_t source)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0)
        fail("socket: %s", strerror(errno));
    if (source != 0) {
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0)
            fail("bind: %s", strerror(errno));
    }
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("connect: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* One request and the shape of its reply, for key 0. */
static size_t compose(char *request, const char *protocol, const char *operation, int value_bytes)
{
    char key[KEY_BYTES + 1], *value = malloc((size_t)value_bytes + 1);
    int redis = strcmp(protocol, "redis") == 0, set = strcmp(operation, "set") == 0;
    size_t n;
    snprintf(key, sizeof key, KEY_FORMAT, 0);
    memset(value, 'v', (size_t)value_bytes);
    value[value_bytes] = 0;
    if (redis && set)
        n = (size_t)sprintf(request, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", KEY_BYTES, key, value_bytes, value);
    else if (redis)
        n = (size_t)sprintf(request, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", KEY_BYTES, key);
    else if (set)
        n = (size_t)sprintf(request, "set %s 0 0 %d\r\n%s\r\n", key, value_bytes, value);
    else
        n = (size_t)sprintf(request, "get %s\r\n", key);
    if (set)
        load.reply_bytes = (size_t)sprintf(load.reply_head, "%s", redis ? "+OK\r\n" : "STORED\r\n");
    else if (redis)
        load.reply_bytes = (size_t)sprintf(load.reply_head, "$%d\r\n", value_bytes) + (size_t)value_bytes + 2;
    else
        load.reply_bytes = 6 + KEY_BYTES + (size_t)snprintf(NULL, 0, " 0 %d\r\n", value_bytes) + (size_t)value_bytes + 7;
    if (!set && !redis)
        strcpy(load.reply_head, "VALUE bench:");
    load.head_bytes = strlen(load.reply_head);
    load.digits_at = (size_t)(strstr(request, key) - request) + KEY_BYTES - KEY_DIGITS;
    free(value);
    return n;
}

static void draw_keys(void)
{
    static uint64_t x = 88172645463325252u; /* xorshift64 */
    char digits[KEY_DIGITS + 1];
    for (int i = 0; i < load.depth; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        snprintf(digits, sizeof digits, "%08d", (int)(x % (uint64_t)load.keys));
        memcpy(load.batch + (size_t)i * load.request_bytes + load.digits_at, digits, KEY_DIGITS);
    }
}

static void send_batch(struct connection *c)
{
    size_t total = load.request_bytes * (size_t)load.depth, sent = 0;
    draw_keys();
    c->received = 0;
    while (sent < total) {
        ssize_t n = send(c->fd, load.batch + sent, total - sent, MSG_NOSIGNAL);
        if (n < 0)
            fail("send: %s", strerror(errno));
        sent += (size_t)n;
    }
}

/* Read what is there; 1 when the batch is answered whole. */
static int take_replies(struct connection *c)
{
    static char scratch[256 * 1024];
    size_t want = load.reply_bytes * (size_t)load.depth;
    ssize_t n = recv(c->fd, scratch, sizeof scratch, 0);
    if (n <= 0)
        fail("the server closed the connection: %s", n < 0 ? strerror(errno) : "end of file");
    if (c->received == 0 && memcmp(scratch, load.reply_head, (size_t)n < load.head_bytes ? (size_t)n : load.head_bytes) != 0)
        fail("unexpected reply: %.40s", scratch);
    c->received += (size_t)n;
    if (c->received > want)
        fail("%zu bytes of reply where %zu are due", c->received, want);
    return c->received == want;
}

static uint64_t run_batches(struct connection *all, int connections, long batches)
{
    struct epoll_event events[64], event = {.events = EPOLLIN};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    long sent = 0, answered = 0;
    uint64_t start = now_ns();
    for (int i = 0; i < connections; i++) {
        event.data.ptr = &all[i];
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event) < 0)
            fail("epoll_ctl: %s", strerror(errno));
        send_batch(&all[i]), sent++;
    }
    while (answered < batches) {
        int n = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            if (!take_replies(events[i].data.ptr))
                continue;
            answered++;
            if (sent < batches)
                send_batch(events[i].data.ptr), sent++;
        }
    }
    return now_ns() - start;
}

static void requests(char **words)
{
    int port = atoi(words[0]), connections = atoi(words[3]), value_bytes = atoi(words[7]);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    char *request = malloc((size_t)value_bytes + 256);
    long batches;
    load.depth = atoi(words[4]);
    load.keys = atoi(words[6]);
    batches = atol(words[5]) / load.depth;
    if (batches < connections)
        batches = connections;
    load.request_bytes = compose(request, words[1], words[2], value_bytes);
    load.batch = malloc(load.request_bytes * (size_t)load.depth);
    for (int i = 0; i < load.depth; i++)
        memcpy(load.batch + (size_t)i * load.request_bytes, request, load.request_bytes);
    for (int i = 0; i < connections; i++)
        all[i].fd = dial(port, 0);
    printf("%ld ", batches * load.depth);
    printf("%llu\n", (unsigned long long)run_batches(all, connections, batches));
}

/* Connect, ask, close until `end_ns`; the number of times goes to `result`. */
static void connect_often(int port, uint32_t source, uint64_t end_ns, int result)
{
    long made = 0;
    char reply[128];
    while (now_ns() < end_ns) {
        int fd = dial(port, source);
        if (send(fd, "version\r\n", 9, MSG_NOSIGNAL) != 9 || recv(fd, reply, sizeof reply, 0) < 9 || memcmp(reply, "VERSION ", 8) != 0)
            fail("no version after %ld connections: %s", made, strerror(errno));
        close(fd);
        made++;
    }
    if (write(result, &made, sizeof made) != sizeof made)
        fail("write: %s", strerror(errno));
}

static void connects(char **words)
{
    int port = atoi(words[0]), processes = atoi(words[1]), ends[2], status;
    uint32_t network = INADDR_LOOPBACK + ((uint32_t)atoi(words[3]) << 8);
    uint64_t start = now_ns(), end = start + strtoull(words[2], NULL, 10) * 1000000u;
    long made, total = 0;
    if (pipe(ends) < 0)
        fail("pipe: %s", strerror(errno));
    for (int i = 0; i < processes; i++)
        if (fork() == 0) {
            alarm(LIMIT_S);
            connect_often(port, network + (uint32_t)i, end, ends[1]);
            exit(0);
        }
    close(ends[1]);
    while (read(ends[0], &made, sizeof made) == sizeof made)
        total += made;
    while (wait(&status) > 0)
        if (status != 0)
            fail("a process failed");
    printf("%ld %llu\n", total, (unsigned long long)(now_ns() - start));
}

int main(int argc, char **argv)
{
    alarm(LIMIT_S);
    if (argc == 10 && strcmp(argv[1], "requests") == 0)
        requests(argv + 2);
    else if (argc == 6 && strcmp(argv[1], "connects") == 0)
        connects(argv + 2);
    else
        fail("usage: see the head of bench_load.c");
    return 0;
}
