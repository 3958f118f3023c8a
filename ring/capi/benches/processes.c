// The C half of processes.rs: one role in a process that has the ring at descriptor 3.

#include <fanwire_ring.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RECORD_BYTES = 64, BATCH = 32, DRAIN = 256, SPIN_STEPS = 6, PAUSE_NS = 2000 };

static void check(FanwireRingStatus status, const char *what) {
    if (status != FANWIRE_RING_STATUS_SUCCESS) {
        fprintf(stderr, "%s: %s\n", what, fanwire_ring_last_error());
        exit(1);
    }
}

static void expect(bool is_right, const char *what) {
    if (!is_right) {
        fprintf(stderr, "wrong: %s\n", what);
        exit(1);
    }
}

static void pause_once(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static void wait_longer(unsigned *steps) {
    if (*steps > SPIN_STEPS) {
        sched_yield();
        return;
    }
    for (unsigned turn = 0; turn < 1u << *steps; turn++) {
        pause_once();
    }
    ++*steps;
}

static uint64_t now(void) {
    struct timespec time;
    expect(clock_gettime(CLOCK_MONOTONIC, &time) == 0, "clock");
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void meet(void) {
    char line[8];
    puts("ready");
    fflush(stdout);
    expect(fgets(line, sizeof line, stdin) != NULL && strcmp(line, "go\n") == 0, "go");
}

static void write_all(const FanwireRing *ring, uint64_t count) {
    FanwireRingWriter *writer = NULL;
    uint8_t payloads[BATCH][RECORD_BYTES] = {{0}};
    FanwireRingInput inputs[BATCH];
    unsigned steps = 0;
    check(fanwire_ring_writer_new(ring, &writer), "writer");
    meet();
    for (uint64_t number = 0; number < count;) {
        size_t wanted = count - number < BATCH ? count - number : BATCH, written = 0;
        for (size_t index = 0; index < wanted; index++) {
            uint64_t own = number + index;
            memcpy(payloads[index], &own, sizeof own);
            inputs[index] = (FanwireRingInput){own, payloads[index], RECORD_BYTES};
        }
        FanwireRingStatus status = fanwire_ring_writer_write_batch(writer, inputs, wanted, &written);
        number += written;
        if (status == FANWIRE_RING_STATUS_FULL) {
            wait_longer(&steps);
        } else {
            check(status, "write");
            steps = 0;
        }
    }
    fanwire_ring_writer_free(writer);
}

static bool visit_next(void *context, uint64_t position, uint64_t tag, const uint8_t *payload,
                       size_t payload_bytes) {
    uint64_t *next = context, number = 0;
    (void)position, (void)tag;
    expect(payload_bytes == RECORD_BYTES, "length");
    memcpy(&number, payload, sizeof number);
    expect(number == *next, "number");
    ++*next;
    return true;
}

static void read_all(const FanwireRing *ring, uint64_t count) {
    FanwireRingReader *reader = NULL;
    unsigned steps = 0;
    check(fanwire_ring_reader_new(ring, &reader), "reader");
    meet();
    for (uint64_t next = 0; next < count;) {
        size_t passed = 0;
        check(fanwire_ring_reader_drain(reader, DRAIN, visit_next, &next, &passed), "drain");
        if (passed == 0) {
            wait_longer(&steps);
        } else {
            steps = 0;
        }
    }
    puts("done");
    fflush(stdout);
    fanwire_ring_reader_free(reader);
}

static void send_times(const FanwireRing *ring, uint64_t count) {
    FanwireRingWriter *writer = NULL;
    uint8_t payload[RECORD_BYTES] = {0};
    check(fanwire_ring_writer_new(ring, &writer), "writer");
    meet();
    for (uint64_t number = 0; number < count; number++) {
        for (uint64_t began = now(); now() - began < PAUSE_NS;) {
            pause_once();
        }
        FanwireRingStatus status;
        do {
            uint64_t time = now();
            memcpy(payload, &time, sizeof time);
            status = fanwire_ring_writer_write(writer, 0, payload, RECORD_BYTES, NULL);
        } while (status == FANWIRE_RING_STATUS_FULL);
        check(status, "write");
    }
    fanwire_ring_writer_free(writer);
}

struct times {
    uint64_t *times, count;
};

static bool visit_time(void *context, uint64_t position, uint64_t tag, const uint8_t *payload,
                       size_t payload_bytes) {
    struct times *times = context;
    uint64_t sent = 0, received = now();
    (void)position, (void)tag;
    expect(payload_bytes == RECORD_BYTES, "length");
    memcpy(&sent, payload, sizeof sent);
    times->times[times->count++] = received > sent ? received - sent : 0;
    return true;
}

static int compare(const void *left, const void *right) {
    uint64_t first = *(const uint64_t *)left, second = *(const uint64_t *)right;
    return (first > second) - (first < second);
}

static void receive_times(const FanwireRing *ring, uint64_t count) {
    FanwireRingReader *reader = NULL;
    struct times times = {calloc(count, sizeof(uint64_t)), 0};
    expect(times.times != NULL, "memory");
    check(fanwire_ring_reader_new(ring, &reader), "reader");
    meet();
    while (times.count < count) {
        check(fanwire_ring_reader_drain(reader, 1, visit_time, &times, NULL), "drain");
    }
    qsort(times.times, count, sizeof(uint64_t), compare);
    const unsigned percents[] = {50, 90, 99};
    for (int index = 0; index < 3; index++) {
        printf("%llu ", (unsigned long long)times.times[(count - 1) * percents[index] / 100]);
    }
    puts("");
    free(times.times);
    fanwire_ring_reader_free(reader);
}

int main(int count, char **arguments) {
    FanwireRing *ring = NULL;
    expect(count == 3, "arguments");
    uint64_t records = strtoull(arguments[2], NULL, 10);
    check(fanwire_ring_from_fd(FANWIRE_RING_ABI_VERSION, 3, &ring), "attach");
    if (strcmp(arguments[1], "write") == 0) {
        write_all(ring, records);
    } else if (strcmp(arguments[1], "read") == 0) {
        read_all(ring, records);
    } else if (strcmp(arguments[1], "send") == 0) {
        send_times(ring, records);
    } else {
        receive_times(ring, records);
    }
    fanwire_ring_free(ring);
    return 0;
}
