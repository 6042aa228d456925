/*
 * The load of the benchmarks: connections to a server that echoes, of which some are at work at a time.
 *
 *   load switch PORT PARALLEL COUNT HEAD MESSAGE ECHOED
 *     COUNT times: connect, send the head, read a 101, send the message, read it back, close.
 *   load echo PORT CONNECTIONS COUNT HEAD MESSAGE ECHOED
 *     COUNT times on each of so many connections that have been through all of that but the last:
 *     send the message, read it back.
 *
 * HEAD and MESSAGE are lengths: on standard input come a head, which is empty where nothing is switched,
 * and a message. ECHOED is how many bytes come back for it. Without a message, a switch ends at the 101.
 *
 * It says "ready", waits for a byte on standard input, works, and says in one line how many seconds
 * that took, how many of its own CPU, and the times of each, in seconds. It keeps its connections until
 * standard input ends.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 20, EVENTS = 256, STUCK = 20000 };

typedef struct {
    double began;
    long left;      /* bytes of the echo that are still to come */
    long turns;     /* echoes that are still to be made */
    int in_head;    /* the 101 is not complete */
    int matched;    /* how much of its CR LF CR LF */
} Connection;

static Connection at[MOST];
static char buffer[1 << 18];
static char *head, *message;
static long head_length, message_length, echoed;
static struct sockaddr_in address;
static double *took;
static long done;
static int poll_;

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static void send_all(int fd, const char *data, long length)
{
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent <= 0)
            fail("the server does not take what is sent");
        data += sent;
        length -= sent;
    }
}

static void say(int fd)
{
    at[fd].left = echoed;
    send_all(fd, message, message_length);
}

static int begin(int polled)
{
    int fd, one = 1;
    double began = now();
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || fd >= MOST)
        fail("no more sockets");
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("the server does not accept connections");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    at[fd] = (Connection){.began = began, .in_head = head_length > 0};
    if (polled) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll_, EPOLL_CTL_ADD, fd, &event);
    }
    if (head_length)
        send_all(fd, head, head_length);
    else
        say(fd);
    return fd;
}

/* Read once; gives 1 when a connection has been through: the 101, and what is echoed. */
static int readable(int fd)
{
    static const char end[] = "\r\n\r\n", status[] = "HTTP/1.1 101";
    Connection *c = &at[fd];
    ssize_t size = recv(fd, buffer, sizeof buffer, 0), i;
    if (size <= 0)
        fail("the server has closed the connection");
    if (!c->in_head) {
        c->left -= size;
        if (c->left < 0)
            fail("the server says more than it should");
        return !c->left;
    }
    if (!c->matched && size >= (ssize_t)sizeof status && memcmp(buffer, status, sizeof status - 1) != 0)
        if (memcmp(buffer, "HTTP", 4) == 0)
            fail("the server does not switch");
    for (i = 0; i < size && c->matched < 4; i++)
        c->matched = buffer[i] == end[c->matched] ? c->matched + 1 : buffer[i] == '\r';
    if (c->matched < 4)
        return 0;
    if (i < size)
        fail("the server speaks first");
    c->in_head = 0;
    if (!message_length)
        return 1;
    say(fd);
    return 0;
}

static int waited(struct epoll_event *events)
{
    int count = epoll_wait(poll_, events, EVENTS, STUCK);
    if (count <= 0)
        fail("the server does not answer");
    return count;
}

static void switch_many(long parallel, long count)
{
    struct epoll_event events[EVENTS];
    long open = 0, left = count;
    while (left || open) {
        for (; left && open < parallel; left--, open++)
            begin(1);
        for (int i = 0, n = waited(events); i < n; i++) {
            int fd = events[i].data.fd;
            if (readable(fd)) {
                took[done++] = now() - at[fd].began;
                close(fd);
                open--;
            }
        }
    }
}

static void echo_many(const int *fds, long connections, long count)
{
    struct epoll_event events[EVENTS];
    long open = connections;
    for (long i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fds[i]};
        epoll_ctl(poll_, EPOLL_CTL_ADD, fds[i], &event);
        at[fds[i]].turns = count;
        at[fds[i]].began = now();
        say(fds[i]);
    }
    while (open)
        for (int i = 0, n = waited(events); i < n; i++) {
            int fd = events[i].data.fd;
            if (!readable(fd))
                continue;
            double then = at[fd].began;
            took[done++] = (at[fd].began = now()) - then;
            if (--at[fd].turns)
                say(fd);
            else
                open--;
        }
}

static char *read_exactly(long length)
{
    char *data = malloc(length + 1);
    if (!data || fread(data, 1, length, stdin) != (size_t)length)
        fail("standard input has ended");
    return data;
}

int main(int argc, char **argv)
{
    if (argc != 8)
        fail("usage: load switch|echo PORT CONNECTIONS COUNT HEAD MESSAGE ECHOED");
    int echoes = !strcmp(argv[1], "echo");
    long connections = atol(argv[3]), count = atol(argv[4]);
    head_length = atol(argv[5]), message_length = atol(argv[6]), echoed = atol(argv[7]);
    address = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    head = read_exactly(head_length);
    message = read_exactly(message_length);
    poll_ = epoll_create1(0);
    took = calloc(count * (echoes ? connections : 1) + 1, sizeof *took);
    int *fds = calloc(connections + 1, sizeof *fds);
    for (long i = 0; echoes && i < connections; i++) {
        fds[i] = begin(0);
        while (!readable(fds[i]))
            ;
    }
    printf("ready\n");
    fflush(stdout);
    if (getchar() == EOF)
        return 0;
    double began = now(), used = cpu();
    if (echoes && count)
        echo_many(fds, connections, count);
    else if (!echoes)
        switch_many(connections, count);
    double seconds = now() - began;
    printf("%.9f %.9f", seconds, cpu() - used);
    for (long i = 0; i < done; i++)
        printf(" %.7f", took[i]);
    printf("\n");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
