/* A healthy server: one thread, one poller, an answer to each request. */
#include "common.h"

static const char answer[] = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n";

int main(void) {
    int listener = listen_on_loopback(256);
    set_nonblocking(listener);
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    watch(poller, listener, EPOLLIN);
    say("ready");
    for (;;) {
        struct epoll_event events[8];
        int count = MUST(epoll_wait(poller, events, 8, -1));
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
                if (connection < 0)
                    continue;
                MUST(setsockopt(connection, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
                watch(poller, connection, EPOLLIN);
                continue;
            }
            char request[2048];
            if (read(fd, request, sizeof request) <= 0 || send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0)
                close(fd);
        }
    }
}
