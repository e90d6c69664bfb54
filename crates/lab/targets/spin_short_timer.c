/* An event loop whose timer is due some microseconds too late for its rounding: it wakes up every millisecond, finds
 * that nothing is due, and sleeps for a millisecond more. */
#include "common.h"

static volatile unsigned long wake_ups;

static int until_next_timer_ms(void) {
    return 1;
}

int main(void) {
    int listener = listen_on_loopback(16);
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    watch(poller, listener, EPOLLIN);
    say("ready");
    for (;;) {
        struct epoll_event events[8];
        MUST(epoll_wait(poller, events, 8, until_next_timer_ms()));
        wake_ups++;
    }
}
