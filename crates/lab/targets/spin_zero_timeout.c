/* An event loop that thinks it always has something to do, and so asks for events with timeout 0 for ever. */
#include "common.h"

static volatile unsigned long turns;
static volatile unsigned long jobs_left = 1;

/* The last job is never taken off the list. */
static void run_jobs(void) {
    turns++;
}

int main(void) {
    int listener = listen_on_loopback(16);
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    watch(poller, listener, EPOLLIN);
    say("ready");
    for (;;) {
        struct epoll_event events[8];
        MUST(epoll_wait(poller, events, 8, jobs_left > 0 ? 0 : -1));
        run_jobs();
    }
}
