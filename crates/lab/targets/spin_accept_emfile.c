/* A server with a limit of 64 descriptors and more clients than that, all of them alive. The listener stays readable,
 * accept fails with EMFILE, and nothing makes room. */
#include "common.h"

static void accept_new(int poller, int listener) {
    static int said;
    int connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection >= 0)
        watch(poller, connection, EPOLLIN);
    else if (errno == EMFILE && !said++)
        say("ready");
}

static void answer(int connection) {
    char bytes[512];
    ssize_t got = read(connection, bytes, sizeof bytes);
    if (got > 0)
        MUST(write(connection, bytes, (size_t)got));
    else
        close(connection);
}

int main(void) {
    limit_descriptors(64);
    int listener = listen_on_loopback(256);
    set_nonblocking(listener);
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    watch(poller, listener, EPOLLIN);
    for (;;) {
        struct epoll_event events[8];
        int count = MUST(epoll_wait(poller, events, 8, -1));
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                accept_new(poller, listener);
            else
                answer(events[i].data.fd);
        }
    }
}
