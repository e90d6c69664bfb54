/* A program that runs a hook by vfork. The child neither ends nor executes anything, so that the kernel keeps the parent
 * in uninterruptible sleep. */
#include "common.h"
#include <sys/prctl.h>

__attribute__((noinline)) static void run_hook(void) {
    if (vfork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
}

int main(void) {
    say("ready"); /* The harness looks for the state D. */
    run_hook();
}
