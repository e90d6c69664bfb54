/* A healthy server. Its answers to SYNs are lost on their way back. */
#include "common.h"

int main(void) {
    int listener = listen_on_loopback(1024);
    for (;;)
        close(MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC)));
}
