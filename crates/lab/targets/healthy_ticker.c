/* A healthy program: a timer ticks ten times a second, each tick has a little to do, and what is found then is taken
 * with timeout 0, which is no spin. */
#include "common.h"

static volatile unsigned long samples;

int main(void) {
    int listener = listen_on_loopback(16);
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC)), timer = tick_every(100);
    watch(poller, listener, EPOLLIN);
    watch(poller, timer, EPOLLIN);
    say("ready");
    for (int timeout_ms = -1;;) {
        struct epoll_event events[8];
        int count = MUST(epoll_wait(poller, events, 8, timeout_ms));
        for (int i = 0; i < count; i++) {
            uint64_t ticks;
            if (events[i].data.fd == timer && read(timer, &ticks, sizeof ticks) > 0)
                samples += ticks;
        }
        timeout_ms = count > 0 ? 0 : -1;
    }
}
