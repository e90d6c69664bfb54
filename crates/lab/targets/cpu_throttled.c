/* A program that wants half a CPU, 10 ms of each 20, and lives in a group that may have a tenth of one. */
#include "common.h"

static double seconds(clockid_t clock) {
    struct timespec now;
    MUST(clock_gettime(clock, &now));
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

__attribute__((noinline)) static void render_frame(void) {
    double until = seconds(CLOCK_THREAD_CPUTIME_ID) + 0.010;
    while (seconds(CLOCK_THREAD_CPUTIME_ID) < until)
        ;
}

int main(void) {
    int timer = tick_every(20), late_frames = 0;
    for (;;) {
        uint64_t ticks;
        struct pollfd wait = {.fd = timer, .events = POLLIN};
        MUST(poll(&wait, 1, -1));
        MUST(read(timer, &ticks, sizeof ticks));
        render_frame();
        /* The first periods of the quota are behind us. */
        if (ticks > 2 && ++late_frames == 5)
            say("ready");
    }
}
