/* A client that waits for an answer, for a minute at most. */
#include "common.h"

static void call(const char *port) {
    int connection = connect_to(port);
    const char request[] = "GET /report HTTP/1.1\r\nhost: lab\r\n\r\n";
    MUST(write(connection, request, sizeof request - 1));
    struct pollfd wait = {.fd = connection, .events = POLLIN};
    if (MUST(poll(&wait, 1, 60000)) == 0)
        fprintf(stderr, "no answer within a minute\n");
    close(connection);
}

int main(int argc, char **argv) {
    (void)argc;
    for (;;)
        call(argv[1]);
}
