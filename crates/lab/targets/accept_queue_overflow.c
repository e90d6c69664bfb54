/* A server with one thread and a backlog of four. It rebuilds its index for each connection, which takes longer than
 * the next clients take to come. */
#include "common.h"

__attribute__((noinline)) static void rebuild_index(void) {
    struct timespec time_it_takes = {.tv_nsec = 400000000};
    nanosleep(&time_it_takes, NULL);
}

int main(void) {
    int listener = listen_on_loopback(4);
    for (int served = 0;; served++) {
        int connection = MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
        if (served == 4)
            say("ready"); /* By now ten or more have come. */
        rebuild_index();
        close(connection);
    }
}
