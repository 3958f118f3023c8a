// Each function with arguments that are not allowed: the answer is a status, and the process goes on.

#include <fanwire_ring.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

static void expect(int line, FanwireRingStatus status, FanwireRingStatus expected) {
    if (status != expected) {
        fprintf(stderr, "line %d: %d (%s) instead of %d\n", line, status, fanwire_ring_last_error(),
                expected);
        failures++;
    }
}

#define EXPECT(call, expected) expect(__LINE__, call, FANWIRE_RING_STATUS_##expected)
#define ABI FANWIRE_RING_ABI_VERSION

static bool stop(void *context, uint64_t position, uint64_t tag, const uint8_t *payload,
                 size_t payload_bytes) {
    (void)context, (void)position, (void)tag, (void)payload, (void)payload_bytes;
    return false;
}

int main(void) {
    FanwireRing *ring = NULL, *none = NULL;
    FanwireRingWriter *writer = NULL;
    FanwireRingReader *reader = NULL, *second = NULL;
    FanwireRingObserver *observer = NULL;
    FanwireRingRetirer *retirer = NULL, *other = NULL;
    FanwireRingGrant *grant = NULL;
    FanwireRingListener *listener = NULL;
    FanwireRingRecord record;
    FanwireRingInfo info;
    FanwireRingSharedConfig config = {.capacity_bytes = 4096, .readers_max = 1};
    const uint8_t bytes[4096] = {1, 2, 3};
    size_t count = 99;
    uint64_t missed = 0;

    if (fanwire_ring_abi_version() != ABI || strlen(fanwire_ring_last_error()) != 0) failures++;
    EXPECT(fanwire_ring_new(ABI + 1, 4096, 1, &ring), INCOMPATIBLE);
    if (strstr(fanwire_ring_last_error(), "ABI version 2") == NULL) failures++;
    EXPECT(fanwire_ring_new(ABI, 4095, 1, &ring), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_new(ABI, 4096, 0, &ring), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_new(ABI, 4096, 1, NULL), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_new(ABI, 4096, 1, &ring), SUCCESS);
    EXPECT(fanwire_ring_info(NULL, &info), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_info(ring, NULL), SUCCESS);
    EXPECT(fanwire_ring_info(ring, &info), SUCCESS);
    if (info.capacity_bytes != 4096 || info.record_bytes_max != 512) failures++;
    EXPECT(fanwire_ring_put_out(ring, 1, NULL), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_fd(ring, NULL), INVALID_ARGUMENT);

    FanwireRingPublisher *publisher = NULL;
    EXPECT(fanwire_ring_publisher_connect(ABI + 1, "/tmp", &publisher), INCOMPATIBLE);
    EXPECT(fanwire_ring_publisher_connect(ABI, NULL, &publisher), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_publisher_connect(ABI, "/no/such/socket", &publisher), SYSTEM);
    EXPECT(fanwire_ring_publisher_publish(NULL, NULL, 0), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_publisher_flush(NULL, 0), INVALID_ARGUMENT);
    fanwire_ring_publisher_free(NULL);

    EXPECT(fanwire_ring_writer_new(NULL, &writer), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_writer_new(ring, NULL), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_writer_new(ring, &writer), SUCCESS);
    EXPECT(fanwire_ring_reader_new(ring, &reader), SUCCESS);
    EXPECT(fanwire_ring_reader_new(ring, &second), NO_SLOT);
    EXPECT(fanwire_ring_observer_new(ring, 7, 0, 0, &observer), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_observer_new(ring, FANWIRE_RING_START_AT, UINT64_MAX, UINT64_MAX, &observer),
           SUCCESS);
    EXPECT(fanwire_ring_observer_next(observer, &record, &missed), EMPTY);
    fanwire_ring_observer_free(observer);
    EXPECT(fanwire_ring_observer_new(ring, FANWIRE_RING_START_TAIL, 0, 0, &observer), SUCCESS);
    EXPECT(fanwire_ring_retirer_new(ring, &retirer), SUCCESS);
    EXPECT(fanwire_ring_retirer_new(ring, &other), NO_SLOT);

    EXPECT(fanwire_ring_writer_write(NULL, 0, bytes, 1, NULL), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_writer_write(writer, 0, NULL, 1, NULL), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_writer_write(writer, 0, bytes, SIZE_MAX, NULL), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_writer_write(writer, 0, bytes, 513, NULL), TOO_LARGE);
    EXPECT(fanwire_ring_writer_write(writer, 0, NULL, 0, NULL), SUCCESS);
    EXPECT(fanwire_ring_writer_write_batch(writer, NULL, 2, &count), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_writer_write_batch(writer, NULL, SIZE_MAX, &count), INVALID_ARGUMENT);
    FanwireRingInput inputs[] = {{1, bytes, 3}, {2, bytes, 513}, {3, bytes, 3}};
    EXPECT(fanwire_ring_writer_write_batch(writer, inputs, 3, &count), TOO_LARGE);
    if (count != 1) failures++;

    EXPECT(fanwire_ring_writer_reserve(writer, 0, 10, NULL), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_writer_reserve(writer, 0, 513, &grant), TOO_LARGE);
    EXPECT(fanwire_ring_writer_reserve(writer, 4, 10, &grant), SUCCESS);
    EXPECT(fanwire_ring_grant_write(grant, bytes, 11), TOO_LARGE);
    EXPECT(fanwire_ring_grant_write(grant, bytes, 2), SUCCESS);
    EXPECT(fanwire_ring_grant_commit(grant, NULL), SUCCESS);
    EXPECT(fanwire_ring_grant_commit(grant, NULL), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_grant_write(grant, bytes, 1), INVALID_ARGUMENT);
    fanwire_ring_grant_free(grant);

    EXPECT(fanwire_ring_reader_advance(reader), EMPTY);
    for (size_t length = 0; length < 4; length++) {
        // Written above: nothing, three bytes, two bytes.
        static const size_t lengths[] = {0, 3, 2};
        FanwireRingStatus status = fanwire_ring_reader_next(reader, &record);
        if (length == 3) {
            expect(__LINE__, status, FANWIRE_RING_STATUS_EMPTY);
            break;
        }
        expect(__LINE__, status, FANWIRE_RING_STATUS_SUCCESS);
        if (record.payload_bytes != lengths[length] || record.number != length ||
            memcmp(record.payload, bytes, record.payload_bytes) != 0)
            failures++;
        EXPECT(fanwire_ring_reader_advance(reader), SUCCESS);
    }
    EXPECT(fanwire_ring_reader_drain(reader, 1, NULL, NULL, NULL), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_reader_drain(reader, 1, stop, NULL, &count), SUCCESS);
    if (count != 0) failures++;
    EXPECT(fanwire_ring_reader_wait(reader, 10, 1000), TIMEOUT);

    // A reader that does not get on holds the ring until it is put out, and then learns what it missed.
    FanwireRingStatus status;
    uint64_t written = 0;
    while ((status = fanwire_ring_writer_write(writer, 0, bytes, 500, NULL)) ==
           FANWIRE_RING_STATUS_SUCCESS)
        written++;
    expect(__LINE__, status, FANWIRE_RING_STATUS_FULL);
    EXPECT(fanwire_ring_put_out(ring, 0, NULL), SUCCESS);
    for (int index = 0; index < 20; index++)
        EXPECT(fanwire_ring_writer_write(writer, 0, bytes, 500, NULL), SUCCESS);
    EXPECT(fanwire_ring_reader_next(reader, &record), MISSED);
    EXPECT(fanwire_ring_reader_next(reader, &record), EMPTY);
    EXPECT(fanwire_ring_observer_next(observer, &record, &missed), MISSED);
    if (missed != 3 + written + 20) {
        fprintf(stderr, "missed %llu\n", (unsigned long long)missed);
        failures++;
    }

    EXPECT(fanwire_ring_new_memfd(ABI, NULL, &config, &none), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_new_memfd(ABI, "name", NULL, &none), INVALID_ARGUMENT);
    config.capacity_bytes = 5;
    EXPECT(fanwire_ring_new_memfd(ABI, "name", &config, &none), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_new_named(ABI, "../name", &config, &none), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_open_named(ABI, "fanwire-nobody-has-made-this", &none), SYSTEM);
    EXPECT(fanwire_ring_open_named(ABI, "\xff", &none), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_observe_named(ABI, "fanwire-nobody-has-made-this", &none), SYSTEM);
    EXPECT(fanwire_ring_unlink("fanwire-nobody-has-made-this"), SYSTEM);
    EXPECT(fanwire_ring_connect(ABI, "/nowhere/socket", &none), SYSTEM);
    EXPECT(fanwire_ring_from_fd(ABI, -1, &none), INVALID_ARGUMENT);
    EXPECT(fanwire_ring_from_fd(ABI, 0, &none), INCOMPATIBLE);
    EXPECT(fanwire_ring_listener_new("/nowhere/socket", true, &listener), SYSTEM);
    if (none != NULL || listener != NULL) failures++;

    // Any order will do, and null.
    fanwire_ring_free(ring);
    fanwire_ring_free(NULL);
    fanwire_ring_reader_free(reader);
    fanwire_ring_reader_free(NULL);
    fanwire_ring_writer_free(writer);
    fanwire_ring_writer_free(NULL);
    fanwire_ring_observer_free(observer);
    fanwire_ring_retirer_free(retirer);
    fanwire_ring_grant_free(NULL);
    fanwire_ring_listener_free(NULL);
    if (failures == 0) printf("all wrong arguments were answered\n");
    return failures != 0;
}
