// fanwire-ring: a lock-free broadcast ring between threads and processes.
//
// Every function answers a status: 0 (FANWIRE_RING_STATUS_SUCCESS) or why it failed, and
// fanwire_ring_last_error() says more. No function lets a panic or an exception out.
//
// A handle belongs to whoever has it, and is given back once by the function that ends with _free. Handles
// of rings and writers may be used by several threads at a time. Those of readers, observers, retirers and
// grants may be handed from one thread to another, and used by one at a time.

#ifndef FANWIRE_RING_H
#define FANWIRE_RING_H

// Generated from ring/capi/src by `cargo test -p fanwire-ring-capi --test header`: do not edit.

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// What the header says.
#define FANWIRE_RING_ABI_VERSION 1

// What a call answers.
typedef enum FanwireRingStatus {
  // It succeeded.
  FANWIRE_RING_STATUS_SUCCESS = 0,
  // There is no record (yet).
  FANWIRE_RING_STATUS_EMPTY = 1,
  // The ring is full: a reader, or an open grant, holds its bytes. Try again later.
  FANWIRE_RING_STATUS_FULL = 2,
  // The payload is larger than the ring takes. It will never fit.
  FANWIRE_RING_STATUS_TOO_LARGE = 3,
  // The grant was open for too long, and no reader sees its record. Write it again.
  FANWIRE_RING_STATUS_RETIRED = 4,
  // Writers have overtaken the reader or observer. It has gone on where it can.
  FANWIRE_RING_STATUS_MISSED = 5,
  // Nothing came in time.
  FANWIRE_RING_STATUS_TIMEOUT = 6,
  // An argument is not allowed: a null pointer, a number out of range, a name that is none.
  FANWIRE_RING_STATUS_INVALID_ARGUMENT = 7,
  // All slots (of readers, writers, peers, or the only retirer's) are taken.
  FANWIRE_RING_STATUS_NO_SLOT = 8,
  // What was found is no ring of this version, or can change its size.
  FANWIRE_RING_STATUS_INCOMPATIBLE = 9,
  // A peer has damaged the memory of the ring. Detach.
  FANWIRE_RING_STATUS_DAMAGED = 10,
  // The ring is attached for observers only.
  FANWIRE_RING_STATUS_READ_ONLY = 11,
  // The system does not want to; `fanwire_ring_last_error` says why.
  FANWIRE_RING_STATUS_SYSTEM = 12,
  // A fault of this library, which it has survived. Free the handle.
  FANWIRE_RING_STATUS_PANIC = 13,
  // The server is gone. Connect again.
  FANWIRE_RING_STATUS_DISCONNECTED = 14,
} FanwireRingStatus;

// Where an observer begins.
typedef enum FanwireRingStart {
  // With what is written from now on.
  FANWIRE_RING_START_TAIL = 0,
  // With the oldest record of which the number is known.
  FANWIRE_RING_START_OLDEST = 1,
  // At the bookmark that is given.
  FANWIRE_RING_START_AT = 2,
} FanwireRingStart;

// What is published.
typedef enum FanwireRingContent {
  // A message of a type; the data are one JSON value in UTF-8.
  FANWIRE_RING_CONTENT_JSON = 0,
  // Bytes, for clients that take binary messages; there is no type.
  FANWIRE_RING_CONTENT_BINARY = 1,
} FanwireRingContent;

// Which subscribers of the channel receive a publication.
typedef enum FanwireRingTarget {
  // All.
  FANWIRE_RING_TARGET_ALL = 0,
  // The sessions of a user.
  FANWIRE_RING_TARGET_USER = 1,
  // The sessions with a role.
  FANWIRE_RING_TARGET_ROLE = 2,
  // The sessions with a permission.
  FANWIRE_RING_TARGET_PERMISSION = 3,
  // All but the session with an id.
  FANWIRE_RING_TARGET_EXCEPT_SESSION = 4,
} FanwireRingTarget;

// The tenant whose channel is meant.
typedef enum FanwireRingScope {
  // None.
  FANWIRE_RING_SCOPE_WITHOUT_TENANT = 0,
  // That of `tenant`.
  FANWIRE_RING_SCOPE_TENANT = 1,
  // All; only for channels that the server subscribes sessions to.
  FANWIRE_RING_SCOPE_ALL_TENANTS = 2,
} FanwireRingScope;

// A ring that this process has made or is attached to.
typedef struct FanwireRing FanwireRing;

// A record that is claimed and not written yet. Readers do not get past it until it is committed, freed or
// retired.
typedef struct FanwireRingGrant FanwireRingGrant;

// A Unix socket that gives a ring to everybody who may connect to it.
typedef struct FanwireRingListener FanwireRingListener;

// Reads records without holding up anybody. It can be overtaken, and is told how many records it missed.
typedef struct FanwireRingObserver FanwireRingObserver;

// Publishes through a ring that a server gives to this process alone: the setting `ingest.shared_memory` of
// fanwire. May be used by several threads at a time.
typedef struct FanwireRingPublisher FanwireRingPublisher;

// Reads every record in the ring's order. Writers wait for it.
typedef struct FanwireRingReader FanwireRingReader;

// What lets readers pass grants that are not committed. A ring has at most one.
typedef struct FanwireRingRetirer FanwireRingRetirer;

// Writes records into a ring. Any number may exist; one may be used by several threads.
typedef struct FanwireRingWriter FanwireRingWriter;

// A record that was written.
typedef struct FanwireRingRecord {
  // Where it is: bytes since the ring was made.
  uint64_t position;
  // Records before it.
  uint64_t number;
  // Its tag.
  uint64_t tag;
  // A copy of its payload, the library's, valid until the next call with the same handle.
  const uint8_t *payload;
  // Its length, bytes.
  size_t payload_bytes;
} FanwireRingRecord;

// A text in UTF-8, without a zero at its end. Of no bytes, the pointer may be null.
typedef struct FanwireRingText {
  // Its first byte.
  const char *text;
  // Its length, bytes.
  size_t bytes;
} FanwireRingText;

// A publication. Zeros are JSON for all subscribers, without a tenant.
typedef struct FanwireRingPublication {
  // The channel.
  struct FanwireRingText channel;
  // The type of the message.
  struct FanwireRingText kind;
  // What is published.
  const uint8_t *data;
  // Its length, bytes.
  size_t data_bytes;
  // What `data` are: a `FanwireRingContent`.
  uint32_t content;
  // Who receives it: a `FanwireRingTarget`.
  uint32_t target_kind;
  // The user, role, permission or session.
  struct FanwireRingText target;
  // Whose channel it is: a `FanwireRingScope`.
  uint32_t scope;
  // The tenant.
  struct FanwireRingText tenant;
} FanwireRingPublication;

// Called for a record; false = go no further. The payload is valid during the call. It must not use the reader,
// and let no exception out.
typedef bool (*FanwireRingVisit)(void *context,
                                 uint64_t position,
                                 uint64_t tag,
                                 const uint8_t *payload,
                                 size_t payload_bytes);

// What a ring tells about itself. Numbers may be old when they arrive.
typedef struct FanwireRingInfo {
  // Bytes of records that the ring holds, with their headers of 32 bytes at most each.
  uint32_t capacity_bytes;
  // The largest payload, bytes.
  uint32_t record_bytes_max;
  // Readers that can be attached at a time.
  uint32_t readers_max;
  // Whether a peer has damaged the memory.
  bool is_damaged;
  // Where the next record is claimed: bytes since the ring was made.
  uint64_t tail_position;
  // Bytes that the slowest reader has not passed.
  uint64_t depth_bytes;
  // Bytes of retired grants that nobody has returned.
  uint64_t held_bytes;
  // Grants that were freed without a commit.
  uint64_t aborted_total;
  // Times that grants were retired.
  uint64_t retirements_total;
} FanwireRingInfo;

// The size of a ring between processes.
typedef struct FanwireRingSharedConfig {
  // Bytes of records the ring holds: a power of two, at least 4096.
  uint32_t capacity_bytes;
  // Readers that can be attached at a time, 1 to 1023.
  uint32_t readers_max;
  // Processes that can be attached at a time, observers not counted: 1 to 1023, or 0 for 64.
  uint32_t peers_max;
  // Writers at a time, in all processes: 1 to 1023, or 0 for 64.
  uint32_t writers_max;
} FanwireRingSharedConfig;

// A record to be written.
typedef struct FanwireRingInput {
  // What readers decide by whether they want it.
  uint64_t tag;
  // The payload.
  const uint8_t *payload;
  // Its length, bytes.
  size_t payload_bytes;
} FanwireRingInput;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Makes an observer. `start` is one of `FanwireRingStart`; `position` and `number` are those of a record or of
// `fanwire_ring_observer_bookmark`, and count only with `FANWIRE_RING_START_AT`.
enum FanwireRingStatus fanwire_ring_observer_new(const struct FanwireRing *ring,
                                                 uint32_t start,
                                                 uint64_t position,
                                                 uint64_t number,
                                                 struct FanwireRingObserver **observer);

// Gives an observer back.
void fanwire_ring_observer_free(struct FanwireRingObserver *observer);

// Shows the next record and passes it; `FANWIRE_RING_STATUS_EMPTY` if there is none. When it has been overtaken, the
// answer is `FANWIRE_RING_STATUS_MISSED` and the number of records that were missed goes to `missed`, which may be
// null; the next call goes on.
enum FanwireRingStatus fanwire_ring_observer_next(struct FanwireRingObserver *observer,
                                                  struct FanwireRingRecord *record,
                                                  uint64_t *missed);

// Where the observer is, for `FANWIRE_RING_START_AT`, in this process or another.
enum FanwireRingStatus fanwire_ring_observer_bookmark(const struct FanwireRingObserver *observer,
                                                      uint64_t *position,
                                                      uint64_t *number);

// Connects to the server whose socket is at a path.
enum FanwireRingStatus fanwire_ring_publisher_connect(uint32_t abi_version,
                                                      const char *socket_path,
                                                      struct FanwireRingPublisher **publisher);

// Publishes. Waits up to `timeout_ms` while the server is behind, and answers `FANWIRE_RING_STATUS_FULL` then; with 0
// it does not wait. Nothing is published unless the answer is `FANWIRE_RING_STATUS_SUCCESS`;
// `FANWIRE_RING_STATUS_DISCONNECTED` means that the server is gone, so connect again. What the server finds wrong with a
// publication (no JSON, say) is in its metrics and log, not here.
enum FanwireRingStatus fanwire_ring_publisher_publish(const struct FanwireRingPublisher *publisher,
                                                      const struct FanwireRingPublication *publication,
                                                      uint64_t timeout_ms);

// Waits up to `timeout_ms` until the server has read all that was published before; `FANWIRE_RING_STATUS_TIMEOUT` if it
// has not by then, `FANWIRE_RING_STATUS_DISCONNECTED` if it is gone and may not have.
enum FanwireRingStatus fanwire_ring_publisher_flush(const struct FanwireRingPublisher *publisher,
                                                    uint64_t timeout_ms);

// Gives a publisher back, and ends its connection.
void fanwire_ring_publisher_free(struct FanwireRingPublisher *publisher);

// Makes a reader, which sees every record that is claimed after this call.
enum FanwireRingStatus fanwire_ring_reader_new(const struct FanwireRing *ring,
                                               struct FanwireRingReader **reader);

// Gives a reader back. Writers wait for it no longer.
void fanwire_ring_reader_free(struct FanwireRingReader *reader);

// The reader's slot, which `fanwire_ring_put_out` takes.
enum FanwireRingStatus fanwire_ring_reader_index(const struct FanwireRingReader *reader,
                                                 uint32_t *index);

// Shows the next record; `FANWIRE_RING_STATUS_EMPTY` if there is none. The same again until
// `fanwire_ring_reader_advance`. After `FANWIRE_RING_STATUS_MISSED` (the reader was put out and overtaken) it goes on
// with what is written from then on.
enum FanwireRingStatus fanwire_ring_reader_next(struct FanwireRingReader *reader,
                                                struct FanwireRingRecord *record);

// Passes the record that `fanwire_ring_reader_next` has shown; `FANWIRE_RING_STATUS_EMPTY` if it has shown none.
enum FanwireRingStatus fanwire_ring_reader_advance(struct FanwireRingReader *reader);

// Hands up to `records_max` records to `visit`, and passes them: faster than one by one. The number goes to
// `count`, which may be null; zero is no error.
enum FanwireRingStatus fanwire_ring_reader_drain(struct FanwireRingReader *reader,
                                                 size_t records_max,
                                                 FanwireRingVisit visit,
                                                 void *context,
                                                 size_t *count);

// Waits until there is a record: looks `spins` times, then sleeps for up to `timeout_ns` nanoseconds (without end
// if it is negative). `FANWIRE_RING_STATUS_TIMEOUT` if there is still none.
enum FanwireRingStatus fanwire_ring_reader_wait(const struct FanwireRingReader *reader,
                                                uint32_t spins,
                                                int64_t timeout_ns);

// Makes a ring in the memory of this process. `capacity_bytes` is a power of two of at least 4096,
// `readers_max` is 1 to 1023. Free it with `fanwire_ring_free`.
enum FanwireRingStatus fanwire_ring_new(uint32_t abi_version,
                                        uint32_t capacity_bytes,
                                        uint32_t readers_max,
                                        struct FanwireRing **ring);

// Gives the handle back. The ring lives on until its writers, readers and other handles are freed, too.
// Null is allowed, here and in the other functions that free.
void fanwire_ring_free(struct FanwireRing *ring);

// Tells how full the ring is, and more.
enum FanwireRingStatus fanwire_ring_info(const struct FanwireRing *ring,
                                         struct FanwireRingInfo *info);

// Puts a reader out of the gate, so that writers wait for it no longer: for a reader that does not get on.
// It is told what it missed. `was_in_gate` may be null.
enum FanwireRingStatus fanwire_ring_put_out(const struct FanwireRing *ring,
                                            uint32_t reader_index,
                                            bool *was_in_gate);

// Frees what processes that are gone have left in a shared ring: slots of readers, announcements of writers.
// `count` may be null.
enum FanwireRingStatus fanwire_ring_evict_dead(const struct FanwireRing *ring,
                                               uint32_t *count);

// Makes the retirer of a ring: one thread, of one process, calls `fanwire_ring_retirer_look` regularly.
enum FanwireRingStatus fanwire_ring_retirer_new(const struct FanwireRing *ring,
                                                struct FanwireRingRetirer **retirer);

// Retires what was claimed before the last look and is not committed. So the time between two looks is how
// long a grant may be open: 100 ms, say. Where `has_retired` is true, wake the readers with
// `fanwire_ring_writer_wake`. It may be null.
enum FanwireRingStatus fanwire_ring_retirer_look(struct FanwireRingRetirer *retirer,
                                                 bool *has_retired);

// Gives the retirer back.
void fanwire_ring_retirer_free(struct FanwireRingRetirer *retirer);

// Makes a ring in a memfd, which others get from `fanwire_ring_listener_serve`, or inherit. Its size is
// sealed, so a peer can spoil what is in it and nothing else.
enum FanwireRingStatus fanwire_ring_new_memfd(uint32_t abi_version,
                                              const char *name,
                                              const struct FanwireRingSharedConfig *config,
                                              struct FanwireRing **ring);

// Makes a ring in /dev/shm under a name that is not in use, for processes of this user that trust each other.
enum FanwireRingStatus fanwire_ring_new_named(uint32_t abi_version,
                                              const char *name,
                                              const struct FanwireRingSharedConfig *config,
                                              struct FanwireRing **ring);

// Attaches to a ring in /dev/shm.
enum FanwireRingStatus fanwire_ring_open_named(uint32_t abi_version,
                                               const char *name,
                                               struct FanwireRing **ring);

// Attaches to a ring in /dev/shm for observers alone: nothing is written to its memory.
enum FanwireRingStatus fanwire_ring_observe_named(uint32_t abi_version,
                                                  const char *name,
                                                  struct FanwireRing **ring);

// Takes a name in /dev/shm away. Who is attached stays so.
enum FanwireRingStatus fanwire_ring_unlink(const char *name);

// Attaches to the ring that a listener gives at the path of its Unix socket.
enum FanwireRingStatus fanwire_ring_connect(uint32_t abi_version,
                                            const char *socket_path,
                                            struct FanwireRing **ring);

// Attaches to the ring in a memfd that this process has inherited or been sent. The descriptor stays the
// caller's.
enum FanwireRingStatus fanwire_ring_from_fd(uint32_t abi_version,
                                            int fd,
                                            struct FanwireRing **ring);

// The descriptor of a shared ring's file, which stays the library's and is valid while the handle is.
enum FanwireRingStatus fanwire_ring_fd(const struct FanwireRing *ring,
                                       int *fd);

// Listens at a path, with mode 0600. With `observers_only`, those who connect cannot write the memory.
// `fanwire_ring_listener_serve` does not wait.
enum FanwireRingStatus fanwire_ring_listener_new(const char *socket_path,
                                                 bool observers_only,
                                                 struct FanwireRingListener **listener);

// The descriptor to wait at (poll, epoll): it is readable when somebody wants the ring.
enum FanwireRingStatus fanwire_ring_listener_fd(const struct FanwireRingListener *listener,
                                                int *fd);

// Gives a shared ring to one process that has connected; `FANWIRE_RING_STATUS_TIMEOUT` if there is none.
enum FanwireRingStatus fanwire_ring_listener_serve(const struct FanwireRingListener *listener,
                                                   const struct FanwireRing *ring);

// Gives the listener back, and takes its socket away.
void fanwire_ring_listener_free(struct FanwireRingListener *listener);

// What went wrong in this thread last, in English; never null. Valid until the next call of this thread
// that fails. Not changed by `FANWIRE_RING_STATUS_EMPTY`, `FANWIRE_RING_STATUS_FULL` and `FANWIRE_RING_STATUS_TIMEOUT`, which are
// no faults.
const char *fanwire_ring_last_error(void);

// The version of this interface. A program that was compiled with `FANWIRE_RING_ABI_VERSION` must find the
// same here: all functions that make or attach a ring take it as `abi_version` and answer
// `FANWIRE_RING_STATUS_INCOMPATIBLE` otherwise.
uint32_t fanwire_ring_abi_version(void);

// Makes a writer.
enum FanwireRingStatus fanwire_ring_writer_new(const struct FanwireRing *ring,
                                               struct FanwireRingWriter **writer);

// Gives a writer back.
void fanwire_ring_writer_free(struct FanwireRingWriter *writer);

// Writes one record: a copy of the payload. `FANWIRE_RING_STATUS_FULL` is the answer when there is no room; this
// never waits. Its position goes to `position`, which may be null. Call `fanwire_ring_writer_wake` after it, or
// once after several.
enum FanwireRingStatus fanwire_ring_writer_write(const struct FanwireRingWriter *writer,
                                                 uint64_t tag,
                                                 const uint8_t *payload,
                                                 size_t payload_bytes,
                                                 uint64_t *position);

// Writes records until one does not fit, and wakes the readers that sleep. The number of those that are
// written goes to `written`, also when the answer is not `FANWIRE_RING_STATUS_SUCCESS`. Records of others may lie
// between them.
enum FanwireRingStatus fanwire_ring_writer_write_batch(const struct FanwireRingWriter *writer,
                                                       const struct FanwireRingInput *records,
                                                       size_t count,
                                                       size_t *written);

// Wakes the readers that sleep in `fanwire_ring_reader_wait`, in all processes. Enters the kernel only if some
// do.
enum FanwireRingStatus fanwire_ring_writer_wake(const struct FanwireRingWriter *writer);

// Claims a record of at most `payload_bytes`, to be filled piece by piece.
enum FanwireRingStatus fanwire_ring_writer_reserve(const struct FanwireRingWriter *writer,
                                                   uint64_t tag,
                                                   uint32_t payload_bytes,
                                                   struct FanwireRingGrant **grant);

// Appends bytes to the record. More than are left are `FANWIRE_RING_STATUS_TOO_LARGE`, and none of them is written.
enum FanwireRingStatus fanwire_ring_grant_write(struct FanwireRingGrant *grant,
                                                const uint8_t *payload,
                                                size_t payload_bytes);

// Makes the record visible with the bytes that were written; its length is theirs. `FANWIRE_RING_STATUS_RETIRED` if
// it took too long. The grant is ended either way, and still to be freed. `position` may be null.
enum FanwireRingStatus fanwire_ring_grant_commit(struct FanwireRingGrant *grant,
                                                 uint64_t *position);

// Gives a grant back. One that is not committed becomes a record that readers skip.
void fanwire_ring_grant_free(struct FanwireRingGrant *grant);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FANWIRE_RING_H */
