/* A server that stopped listening, by shutdown, and left the socket with its poller. It is reported for ever, and accept
 * fails with EINVAL each time. */
#include "common.h"

static void accept_new(int listener) {
    static int said;
    int connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection >= 0)
        close(connection);
    else if (errno == EINVAL && !said++)
        say("ready");
}

int main(void) {
    int listener = listen_on_loopback(16);
    set_nonblocking(listener);
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    watch(poller, listener, EPOLLIN);
    MUST(shutdown(listener, SHUT_RD));
    for (;;) {
        struct epoll_event events[8];
        int count = MUST(epoll_wait(poller, events, 8, -1));
        for (int i = 0; i < count; i++)
            accept_new(listener);
    }
}
