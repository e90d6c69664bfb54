/* A server that forgets what it means when read returns 0. The peer has sent its FIN and keeps the connection: the
 * descriptor is readable for ever. */
#include "common.h"

static void on_readable(int connection) {
    static int said;
    char bytes[512];
    ssize_t got = read(connection, bytes, sizeof bytes);
    if (got > 0)
        MUST(write(connection, bytes, (size_t)got));
    else if (!said++)
        say("ready");
}

int main(void) {
    int listener = listen_on_loopback(16);
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    watch(poller, listener, EPOLLIN);
    for (;;) {
        struct epoll_event events[8];
        int count = MUST(epoll_wait(poller, events, 8, -1));
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                watch(poller, MUST(accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)), EPOLLIN | EPOLLRDHUP);
            else
                on_readable(events[i].data.fd);
        }
    }
}
