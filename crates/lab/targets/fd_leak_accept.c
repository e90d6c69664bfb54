/* The chain: a helper leaks a descriptor at each tick, until the process has none left. Then accept fails with EMFILE
 * for a client that waits, the listener stays readable, and the loop spins. */
#include "common.h"

static char template[256];

__attribute__((noinline)) static void load_template(void) {
    int file = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return; /* The old template will do. */
    if (read(file, template, sizeof template) < 0)
        die("read");
    /* close(file) is missing. */
}

__attribute__((noinline)) static void refresh(int timer) {
    uint64_t ticks;
    MUST(read(timer, &ticks, sizeof ticks));
    load_template();
}

static void serve(int listener) {
    static int said;
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection >= 0) {
        (void)!write(connection, template, sizeof template);
        close(connection);
    } else if (errno == EMFILE && !said++) {
        say("ready");
    }
}

int main(void) {
    limit_descriptors(64);
    int listener = listen_on_loopback(1024);
    set_nonblocking(listener);
    int timer = tick_every(40);
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    watch(poller, listener, EPOLLIN);
    watch(poller, timer, EPOLLIN);
    for (;;) {
        struct epoll_event events[8];
        int count = MUST(epoll_wait(poller, events, 8, -1));
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                serve(listener);
            else
                refresh(timer);
        }
    }
}
