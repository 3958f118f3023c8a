// Publishes into a running fanwire through shared memory.
//
//   fanwire serve --dev with FANWIRE_INGEST__SHARED_MEMORY=/fanwire
//   cc publish.c -lfanwire_ring -o publish && ./publish /dev/shm/fanwire news 1000

#include <fanwire_ring.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(FanwireRingStatus status, const char *what) {
    if (status != FANWIRE_RING_STATUS_SUCCESS) {
        fprintf(stderr, "%s: %s\n", what, fanwire_ring_last_error());
        exit(1);
    }
}

int main(int count, char **arguments) {
    if (count != 4) {
        fprintf(stderr, "usage: %s SOCKET CHANNEL COUNT\n", arguments[0]);
        return 2;
    }
    FanwireRingPublisher *publisher = NULL;
    check(fanwire_ring_publisher_connect(FANWIRE_RING_ABI_VERSION, arguments[1], &publisher), "connect");
    char data[64];
    FanwireRingPublication publication = {
        .channel = {.text = arguments[2], .bytes = strlen(arguments[2])},
        .kind = {.text = "tick", .bytes = 4},
        .data = (const uint8_t *)data,
    };
    long numbers = atol(arguments[3]);
    for (long number = 0; number < numbers; number++) {
        int length = snprintf(data, sizeof data, "{\"from\":\"c\",\"number\":%ld}", number);
        publication.data_bytes = (size_t)length;
        check(fanwire_ring_publisher_publish(publisher, &publication, 10000), "publish");
    }
    check(fanwire_ring_publisher_flush(publisher, 10000), "flush");
    fanwire_ring_publisher_free(publisher);
    printf("published %ld messages\n", numbers);
    return 0;
}
