/* A healthy program: its pool grows to forty workers under a burst of jobs, which is over within seconds. Then they wait
   for more, for a hundred seconds at most. That is no backlog. */
#include "common.h"
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t jobs = PTHREAD_COND_INITIALIZER;

static void *work(void *nothing) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 100;
    pthread_mutex_lock(&lock);
    while (pthread_cond_timedwait(&jobs, &lock, &until) == 0)
        ;
    pthread_mutex_unlock(&lock);
    return nothing;
}

int main(void) {
    pthread_t worker;
    say("ready");
    for (int i = 0; i < 40; i++) {
        if (pthread_create(&worker, NULL, work, NULL))
            die("pthread_create");
        usleep(50000);
    }
    for (;;)
        pause();
}
