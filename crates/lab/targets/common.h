/* What every C target begins with. An error ends the program: a target that limps on would show another fault. */
#ifndef COMMON_H
#define COMMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

/* A system call that must not fail. */
#define MUST(call)                        \
    __extension__({                       \
        __typeof__(call) result_ = (call); \
        if (result_ < 0)                  \
            die(#call);                   \
        result_;                          \
    })

/* Tells the harness a line. */
__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

/* Listens on a free port of loopback and tells the harness which. */
static inline int listen_on_loopback(int backlog) {
    int listener = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    MUST(bind(listener, (struct sockaddr *)&here, size));
    MUST(listen(listener, backlog));
    MUST(getsockname(listener, (struct sockaddr *)&here, &size));
    say("listening %d", ntohs(here.sin_port));
    return listener;
}

static inline struct sockaddr_in loopback(const char *port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* Connects to a port of loopback. */
static inline int connect_to(const char *port) {
    int connection = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in peer = loopback(port);
    MUST(connect(connection, (struct sockaddr *)&peer, sizeof peer));
    return connection;
}

static inline void set_nonblocking(int fd) {
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
}

/* Has a poller tell of `events` of a descriptor, for as long as they last. */
static inline void watch(int poller, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    MUST(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event));
}

/* A timer that ticks for as long as the program runs. */
static inline int tick_every(long milliseconds) {
    int timer = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    struct timespec period = {.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
    struct itimerspec ticks = {.it_interval = period, .it_value = period};
    MUST(timerfd_settime(timer, 0, &ticks, NULL));
    return timer;
}

static inline void limit_descriptors(rlim_t most) {
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = most;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
}

#endif
