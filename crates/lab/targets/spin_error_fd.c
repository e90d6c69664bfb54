/* A server that pauses a connection by asking for no events of it. The peer resets it: EPOLLERR and EPOLLHUP are told
 * whether one asks for them or not, and nobody handles them. */
#include "common.h"

static int wants_input(uint32_t events) {
    return events & EPOLLIN;
}

int main(void) {
    int listener = listen_on_loopback(16), said = 0;
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    watch(poller, listener, EPOLLIN);
    for (;;) {
        struct epoll_event events[8];
        int count = MUST(epoll_wait(poller, events, 8, -1));
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                watch(poller, MUST(accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)), EPOLLIN);
            } else if (wants_input(events[i].events) && !(events[i].events & EPOLLERR)) {
                char bytes[512];
                MUST(read(fd, bytes, sizeof bytes));
                struct epoll_event paused = {.events = 0, .data.fd = fd};
                MUST(epoll_ctl(poller, EPOLL_CTL_MOD, fd, &paused));
                MUST(write(fd, "paused", 6));
            } else if (!said++) {
                say("ready");
            }
        }
    }
}
