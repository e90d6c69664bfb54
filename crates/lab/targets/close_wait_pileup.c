/* A server that takes a connection out of its poller when the peer has closed, and forgets to close it. */
#include "common.h"

static void forget(int poller, int connection) {
    static int forgotten;
    MUST(epoll_ctl(poller, EPOLL_CTL_DEL, connection, NULL));
    /* close(connection) is missing. */
    if (++forgotten == 50)
        say("ready");
}

int main(void) {
    limit_descriptors(1024);
    int listener = listen_on_loopback(256);
    set_nonblocking(listener);
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    watch(poller, listener, EPOLLIN);
    for (;;) {
        struct epoll_event events[8];
        int count = MUST(epoll_wait(poller, events, 8, -1));
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (connection >= 0)
                    watch(poller, connection, EPOLLIN);
                continue;
            }
            char bytes[512];
            ssize_t got = read(fd, bytes, sizeof bytes);
            if (got > 0)
                MUST(write(fd, bytes, (size_t)got));
            else
                forget(poller, fd);
        }
    }
}
