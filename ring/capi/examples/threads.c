// Two readers receive what a writer sends, in threads of one process.
//
//   cc threads.c -lfanwire_ring -lpthread && ./a.out

#include <fanwire_ring.h>

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RECORDS = 100000, READERS = 2, BATCH = 32 };

static void check(FanwireRingStatus status, const char *what) {
    if (status != FANWIRE_RING_STATUS_SUCCESS) {
        fprintf(stderr, "%s: %s\n", what, fanwire_ring_last_error());
        exit(1);
    }
}

struct sum {
    uint64_t next;
    bool is_wrong;
};

static bool visit(void *context, uint64_t position, uint64_t tag, const uint8_t *payload,
                  size_t payload_bytes) {
    struct sum *sum = context;
    uint64_t number = 0;
    (void)position;
    if (payload_bytes == sizeof number) {
        memcpy(&number, payload, sizeof number);
    }
    sum->is_wrong |= number != sum->next || tag != number % 7;
    sum->next++;
    return true;
}

static void *read_all(void *argument) {
    FanwireRingReader *reader = argument;
    struct sum sum = {0, false};
    while (sum.next < RECORDS) {
        check(fanwire_ring_reader_drain(reader, 256, visit, &sum, NULL), "drain");
        FanwireRingStatus waited = fanwire_ring_reader_wait(reader, 100, 1000000000);
        if (waited != FANWIRE_RING_STATUS_TIMEOUT) {
            check(waited, "wait");
        }
    }
    fanwire_ring_reader_free(reader);
    return sum.is_wrong ? "a record is missing or wrong" : NULL;
}

int main(void) {
    FanwireRing *ring = NULL;
    FanwireRingWriter *writer = NULL;
    pthread_t threads[READERS];
    check(fanwire_ring_new(FANWIRE_RING_ABI_VERSION, 1 << 16, READERS, &ring), "new");
    check(fanwire_ring_writer_new(ring, &writer), "writer");
    for (int index = 0; index < READERS; index++) {
        FanwireRingReader *reader = NULL;
        check(fanwire_ring_reader_new(ring, &reader), "reader");
        if (pthread_create(&threads[index], NULL, read_all, reader) != 0) {
            return 1;
        }
    }
    for (uint64_t number = 0; number < RECORDS;) {
        uint64_t numbers[BATCH];
        FanwireRingInput inputs[BATCH];
        size_t count = RECORDS - number < BATCH ? RECORDS - number : BATCH, written = 0;
        for (size_t index = 0; index < count; index++) {
            numbers[index] = number + index;
            inputs[index] = (FanwireRingInput){numbers[index] % 7, (const uint8_t *)&numbers[index],
                                               sizeof numbers[index]};
        }
        FanwireRingStatus status = fanwire_ring_writer_write_batch(writer, inputs, count, &written);
        number += written;
        if (status == FANWIRE_RING_STATUS_FULL) {
            sched_yield();
        } else {
            check(status, "write");
        }
    }
    int failures = 0;
    for (int index = 0; index < READERS; index++) {
        void *error = NULL;
        pthread_join(threads[index], &error);
        if (error != NULL) {
            fprintf(stderr, "reader %d: %s\n", index, (const char *)error);
            failures++;
        }
    }
    fanwire_ring_writer_free(writer);
    fanwire_ring_free(ring);
    if (failures == 0) {
        printf("%d readers received %d records in order\n", READERS, RECORDS);
    }
    return failures != 0;
}
