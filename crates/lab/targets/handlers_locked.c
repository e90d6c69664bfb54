/* A thread for each connection: each reads a request and waits for a lock, whose owner sleeps and forgot it. Nothing is
   ever answered, while new clients are taken at once. The argument says which kind of lock. */
#include "common.h"
#include <pthread.h>
#include <stdatomic.h>

enum { HUNG = 4 };
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t index_lock = PTHREAD_RWLOCK_INITIALIZER;
static int by_rwlock;
static atomic_int came;

static void lock(int to_write) {
    if (!by_rwlock)
        pthread_mutex_lock(&table);
    else if (to_write)
        pthread_rwlock_wrlock(&index_lock);
    else
        pthread_rwlock_rdlock(&index_lock);
}

/* Its own frame, whatever the optimizer thinks of it. */
__attribute__((noinline)) static void look_up(void) {
    lock(0);
}

static void *handle(void *of) {
    int connection = (int)(intptr_t)of;
    char request[2048];
    if (read(connection, request, sizeof request) > 0) {
        if (atomic_fetch_add(&came, 1) + 1 == HUNG)
            say("ready");
        look_up();
    }
    close(connection);
    return NULL;
}

static void *compact(void *locked) {
    lock(1);
    pthread_barrier_wait(locked);
    for (;;)
        sleep(3600);
    return NULL;
}

int main(int argc, char **argv) {
    by_rwlock = argc > 1 && strcmp(argv[1], "rwlock") == 0;
    pthread_t thread;
    pthread_barrier_t locked;
    pthread_barrier_init(&locked, NULL, 2);
    if (pthread_create(&thread, NULL, compact, &locked))
        die("pthread_create");
    pthread_barrier_wait(&locked);
    int listener = listen_on_loopback(256);
    for (;;) {
        int connection = MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
        if (pthread_create(&thread, NULL, handle, (void *)(intptr_t)connection))
            die("pthread_create");
    }
}
