/* A client that gives each call half a second by a timer of its own, notes that the time is up, and waits on. */
#include "common.h"

static int late;

static void call(int connection) {
    const char request[] = "GET /price HTTP/1.1\r\nhost: lab\r\n\r\n";
    int deadline = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    struct itimerspec once = {.it_value.tv_nsec = 500000000};
    MUST(timerfd_settime(deadline, 0, &once, NULL));
    MUST(write(connection, request, sizeof request - 1));
    struct pollfd wait[] = {{.fd = connection, .events = POLLIN}, {.fd = deadline, .events = POLLIN}};
    while (!(wait[0].revents & POLLIN)) {
        MUST(poll(wait, 2, -1));
        if (wait[1].revents & POLLIN) {
            uint64_t times;
            MUST(read(deadline, &times, sizeof times));
            if (late++ == 0)
                say("ready");
            /* return -ETIMEDOUT is missing. */
        }
    }
    char answer[2048];
    MUST(read(connection, answer, sizeof answer));
    close(deadline);
}

int main(int argc, char **argv) {
    (void)argc;
    int connection = connect_to(argv[1]);
    for (;;)
        call(connection);
}
