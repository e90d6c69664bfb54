/* Two threads take the same two locks, each in its own order: both wait for ever, and the program's loop ticks on. The
   argument says how many older threads wait for a third lock, which the loop's thread holds. */
#include "common.h"
#include <pthread.h>

static pthread_mutex_t accounts = PTHREAD_MUTEX_INITIALIZER, ledger = PTHREAD_MUTEX_INITIALIZER,
                       archive = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t both;

/* Its own frame, whatever the optimizer thinks of it. */
__attribute__((noinline)) static void *transfer(void *nothing) {
    pthread_mutex_lock(&accounts);
    pthread_barrier_wait(&both);
    pthread_mutex_lock(&ledger);
    pthread_mutex_unlock(&ledger);
    pthread_mutex_unlock(&accounts);
    return nothing;
}

__attribute__((noinline)) static void *close_books(void *nothing) {
    pthread_mutex_lock(&ledger);
    pthread_barrier_wait(&both);
    pthread_mutex_lock(&accounts);
    pthread_mutex_unlock(&accounts);
    pthread_mutex_unlock(&ledger);
    return nothing;
}

static void *file(void *nothing) {
    pthread_mutex_lock(&archive);
    pthread_mutex_unlock(&archive);
    return nothing;
}

int main(int argc, char **argv) {
    pthread_t first, second;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    pthread_mutex_lock(&archive);
    for (int older = argc > 1 ? atoi(argv[1]) : 0; older > 0; older--)
        if (pthread_create(&first, &small, file, NULL))
            die("pthread_create");
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC)), tick = tick_every(100);
    watch(poller, tick, EPOLLIN);
    pthread_barrier_init(&both, NULL, 3);
    if (pthread_create(&first, NULL, transfer, NULL) || pthread_create(&second, NULL, close_books, NULL))
        die("pthread_create");
    pthread_barrier_wait(&both);
    say("ready");
    for (;;) {
        struct epoll_event event;
        uint64_t ticks;
        MUST(epoll_wait(poller, &event, 1, -1));
        MUST(read(tick, &ticks, sizeof ticks));
    }
}
