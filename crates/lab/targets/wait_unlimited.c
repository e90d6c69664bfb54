/* A subscriber: it reads what the broker may send some day. No timer, no keepalive: should the broker's host vanish,
 * it would wait for ever. */
#include "common.h"

int main(int argc, char **argv) {
    (void)argc;
    int broker = connect_to(argv[1]);
    char message[512];
    MUST(write(broker, "subscribe news\n", 15));
    MUST(read(broker, message, sizeof message)); /* "subscribed" */
    say("ready");
    for (;;)
        if (MUST(read(broker, message, sizeof message)) == 0)
            return 0;
}
