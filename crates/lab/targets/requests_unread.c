/* One thread, one poller: the first request is read, and its answer waits for a lock that nobody will give back. The
   requests of the other connections lie unread. */
#include "common.h"
#include <pthread.h>

enum { CLIENTS = 4 };
static pthread_rwlock_t cache = PTHREAD_RWLOCK_INITIALIZER;

static void *forget(void *nothing) {
    pthread_rwlock_wrlock(&cache);
    return nothing;
}

/* Its own frame, whatever the optimizer thinks of it. */
__attribute__((noinline)) static void look_up(void) {
    pthread_rwlock_rdlock(&cache);
}

int main(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, forget, NULL) || pthread_join(thread, NULL))
        die("pthread_create");
    int listener = listen_on_loopback(256), poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int i = 0; i < CLIENTS; i++)
        watch(poller, MUST(accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)), EPOLLIN);
    say("ready");
    for (;;) {
        struct epoll_event event;
        char request[2048];
        MUST(epoll_wait(poller, &event, 1, -1));
        if (read(event.data.fd, request, sizeof request) > 0)
            look_up();
    }
}
