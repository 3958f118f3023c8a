// A process receives what another one writes into a ring in shared memory.
//
//   cc processes.c -lfanwire_ring -o processes && ./processes /tmp/ring.socket

#include <fanwire_ring.h>

#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RECORDS = 10000 };

static void check(FanwireRingStatus status, const char *what) {
    if (status != FANWIRE_RING_STATUS_SUCCESS) {
        fprintf(stderr, "%s: %s\n", what, fanwire_ring_last_error());
        exit(1);
    }
}

static int write_all(const char *socket_path) {
    FanwireRing *ring = NULL;
    FanwireRingWriter *writer = NULL;
    check(fanwire_ring_connect(FANWIRE_RING_ABI_VERSION, socket_path, &ring), "connect");
    check(fanwire_ring_writer_new(ring, &writer), "writer");
    for (uint32_t number = 0; number < RECORDS;) {
        // In pieces, as if its length were not known before.
        FanwireRingGrant *grant = NULL;
        char text[32];
        int length = snprintf(text, sizeof text, "record %u", number);
        FanwireRingStatus status = fanwire_ring_writer_reserve(writer, number, sizeof text, &grant);
        if (status == FANWIRE_RING_STATUS_FULL) {
            check(fanwire_ring_writer_wake(writer), "wake");
            // Nobody reads for a process that is gone.
            check(fanwire_ring_evict_dead(ring, NULL), "evict");
            sched_yield();
            continue;
        }
        check(status, "reserve");
        check(fanwire_ring_grant_write(grant, (const uint8_t *)text, 7), "write");
        check(fanwire_ring_grant_write(grant, (const uint8_t *)text + 7, (size_t)length - 7), "write");
        check(fanwire_ring_grant_commit(grant, NULL), "commit");
        fanwire_ring_grant_free(grant);
        check(fanwire_ring_writer_wake(writer), "wake");
        number++;
    }
    fanwire_ring_writer_free(writer);
    fanwire_ring_free(ring);
    return 0;
}

int main(int count, char **arguments) {
    if (count == 3 && strcmp(arguments[2], "writer") == 0) {
        return write_all(arguments[1]);
    }
    if (count != 2) {
        fprintf(stderr, "usage: %s SOCKET\n", arguments[0]);
        return 2;
    }
    const char *socket_path = arguments[1];
    FanwireRingSharedConfig config = {.capacity_bytes = 1 << 16, .readers_max = 4};
    FanwireRing *ring = NULL;
    FanwireRingReader *reader = NULL;
    FanwireRingListener *listener = NULL;
    check(fanwire_ring_new_memfd(FANWIRE_RING_ABI_VERSION, "example", &config, &ring), "new");
    check(fanwire_ring_reader_new(ring, &reader), "reader");
    check(fanwire_ring_listener_new(socket_path, false, &listener), "listen");

    pid_t child = fork();
    if (child == 0) {
        execl(arguments[0], arguments[0], socket_path, "writer", (char *)NULL);
        _exit(127);
    }
    struct pollfd wanted = {.events = POLLIN};
    check(fanwire_ring_listener_fd(listener, &wanted.fd), "fd");
    if (poll(&wanted, 1, 10000) != 1) {
        fprintf(stderr, "nobody has connected\n");
        return 1;
    }
    check(fanwire_ring_listener_serve(listener, ring), "serve");

    uint32_t received = 0;
    while (received < RECORDS) {
        FanwireRingRecord record;
        FanwireRingStatus status = fanwire_ring_reader_next(reader, &record);
        if (status == FANWIRE_RING_STATUS_EMPTY) {
            check(fanwire_ring_reader_wait(reader, 100, 10000000000), "wait");
            continue;
        }
        check(status, "next");
        char expected[32];
        int length = snprintf(expected, sizeof expected, "record %u", received);
        if (record.payload_bytes != (size_t)length || record.tag != received ||
            memcmp(record.payload, expected, record.payload_bytes) != 0) {
            fprintf(stderr, "record %u is wrong\n", received);
            return 1;
        }
        check(fanwire_ring_reader_advance(reader), "advance");
        received++;
    }
    int status = 0;
    waitpid(child, &status, 0);
    fanwire_ring_listener_free(listener);
    fanwire_ring_reader_free(reader);
    fanwire_ring_free(ring);
    printf("received %u records of another process, which ended with %d\n", received, status);
    return status;
}
