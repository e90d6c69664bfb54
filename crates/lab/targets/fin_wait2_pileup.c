/* A server that answers, shuts down its half of the connection, and waits for the client to close the other, which its
 * clients never do. */
#include "common.h"

static void answer(int connection) {
    static int answered;
    char bytes[512];
    ssize_t got = read(connection, bytes, sizeof bytes);
    if (got <= 0) {
        close(connection);
        return;
    }
    MUST(write(connection, bytes, (size_t)got));
    MUST(shutdown(connection, SHUT_WR));
    if (++answered == 50)
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
            if (events[i].data.fd != listener) {
                answer(events[i].data.fd);
                continue;
            }
            int connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (connection >= 0)
                watch(poller, connection, EPOLLIN);
        }
    }
}
