/* A program that looks up a name. The only name server never answers. */
#include "common.h"
#include <netdb.h>

int main(void) {
    for (;;) {
        struct addrinfo *found = NULL, wanted = {.ai_socktype = SOCK_STREAM};
        if (getaddrinfo("db.lab.test", "5432", &wanted, &found) == 0)
            freeaddrinfo(found);
    }
}
