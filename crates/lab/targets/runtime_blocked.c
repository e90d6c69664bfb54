/* One thread, one poller: each answer waits for a log on a slow disk, by a sleep that stands for it. The argument says how
   many milliseconds in one piece, and how many pieces. */
#include "common.h"

static const char answer[] = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n";

/* Its own frame, whatever the optimizer thinks of it. */
__attribute__((noinline)) static void append_to_log(long milliseconds, int pieces) {
    struct timespec piece = {.tv_nsec = milliseconds * 1000000};
    for (int i = 0; i < pieces; i++)
        nanosleep(&piece, NULL);
}

int main(int argc, char **argv) {
    long milliseconds = argc > 1 ? atol(argv[1]) : 300;
    int pieces = argc > 2 ? atoi(argv[2]) : 1, clients = argc > 3 ? atoi(argv[3]) : 4;
    int listener = listen_on_loopback(256), poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int i = 0; i < clients; i++)
        watch(poller, MUST(accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)), EPOLLIN);
    /* A backend that serves one client leaves the others to its master. */
    close(listener);
    say("ready");
    for (;;) {
        struct epoll_event event;
        char request[2048];
        MUST(epoll_wait(poller, &event, 1, -1));
        if (read(event.data.fd, request, sizeof request) <= 0)
            return 0;
        append_to_log(milliseconds, pieces);
        MUST(send(event.data.fd, answer, sizeof answer - 1, MSG_NOSIGNAL));
    }
}
