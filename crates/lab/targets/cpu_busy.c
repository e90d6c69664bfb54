/* A program that waits for nothing: it computes. */
#include "common.h"

static volatile uint32_t result;

__attribute__((noinline)) static uint32_t checksum(const unsigned char *bytes, size_t count) {
    uint32_t sum = 1, sums = 0;
    for (size_t i = 0; i < count; i++) {
        sum = (sum + bytes[i]) % 65521;
        sums = (sums + sum) % 65521;
    }
    return sums << 16 | sum;
}

int main(void) {
    static unsigned char bytes[1 << 20];
    say("ready");
    for (;;)
        result = checksum(bytes, sizeof bytes);
}
