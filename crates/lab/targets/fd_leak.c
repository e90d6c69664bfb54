/* A daemon that reads its settings four times a second and never closes them. Of 256 descriptors it has used all after
 * a minute; of as many as its argument says, later. */
#include "common.h"

static char settings[256];

__attribute__((noinline)) static void load_settings(void) {
    int file = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    if (read(file, settings, sizeof settings) < 0)
        die("read");
    /* close(file) is missing. */
}

int main(int argc, char **argv) {
    limit_descriptors(argc > 1 ? (rlim_t)atoi(argv[1]) : 256);
    int timer = tick_every(250);
    for (int turn = 0;; turn++) {
        struct pollfd wait = {.fd = timer, .events = POLLIN};
        MUST(poll(&wait, 1, -1));
        uint64_t ticks;
        MUST(read(timer, &ticks, sizeof ticks));
        load_settings();
        if (turn == 3)
            say("ready");
    }
}
