/* A client that connects and waits for as long as the kernel does, which is two minutes. */
#include "common.h"

int main(int argc, char **argv) {
    (void)argc;
    say("ready"); /* The harness looks for the SYN. */
    for (;;) {
        int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_in peer = loopback(argv[1]);
        if (connect(connection, (struct sockaddr *)&peer, sizeof peer) < 0)
            perror("connect");
        close(connection);
    }
}
