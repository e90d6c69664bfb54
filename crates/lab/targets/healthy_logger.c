/* A client that sends its log over TCP, a line every six seconds, and is never answered: nobody waits for anything. */
#include "common.h"

int main(int argc, char **argv) {
    (void)argc;
    const char line[] = "<14>lab: all is well\n";
    int collector = connect_to(argv[1]), poller = MUST(epoll_create1(EPOLL_CLOEXEC)), tick = tick_every(6000), on = 1;
    MUST(setsockopt(collector, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    watch(poller, tick, EPOLLIN);
    watch(poller, collector, EPOLLRDHUP);
    for (;;) {
        struct epoll_event event;
        uint64_t ticks;
        MUST(write(collector, line, sizeof line - 1));
        MUST(epoll_wait(poller, &event, 1, -1));
        if (event.data.fd == collector)
            return 0;
        MUST(read(tick, &ticks, sizeof ticks));
    }
}
