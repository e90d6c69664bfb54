/* A healthy subscriber: it waits for news with a limit, and keepalive would tell it that the broker's host is gone. */
#include "common.h"

int main(int argc, char **argv) {
    (void)argc;
    int broker = connect_to(argv[1]), on = 1;
    MUST(setsockopt(broker, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    char message[512];
    MUST(write(broker, "subscribe news\n", 15));
    MUST(read(broker, message, sizeof message)); /* "subscribed" */
    say("ready");
    for (;;) {
        struct pollfd wait = {.fd = broker, .events = POLLIN};
        if (MUST(poll(&wait, 1, 5000)) > 0 && MUST(read(broker, message, sizeof message)) == 0)
            return 0;
    }
}
