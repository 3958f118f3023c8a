//! Every fixed limit of the server, with its unit and the reason for its size.
//!
//! What an operator may change is in `config`; these limits bound the memory and time that a client
//! can use.

/// Longest request head (request line and headers), bytes. Browsers send 1 to 4 KiB, proxies with
/// large cookies up to 8 KiB.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers in a request head. The fixed array of the parser costs 32 bytes each.
pub const HEAD_HEADERS_MAX: usize = 100;
/// Longest header of the PROXY protocol, bytes. Addresses have 36; what proxies add to them (names,
/// identifiers, the client's certificate) stays below 4 KiB.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 * 1024;
/// Trusted proxies between a client and the server that one request may name; each costs the parsing
/// of an address. Chains have two or three.
pub const FORWARDED_PROXIES_MAX: usize = 16;
/// Time for a complete request head after the connection was accepted, milliseconds.
pub const HEAD_TIMEOUT_MS: u64 = 10_000;
/// Time for an HTTP request and its answer, for the client to take the answer, and for the next
/// request to begin, milliseconds.
pub const HTTP_TIMEOUT_MS: u64 = 30_000;
/// Bytes that may wait for the HTTP side of one connection before nothing more is received, and those
/// below which it goes on.
pub const HTTP_INPUT_WAITING: (usize, usize) = (64 * 1024, 16 * 1024);
/// Bytes of answers that may wait for the client of one connection before no further request of it is
/// answered.
pub const HTTP_OUTPUT_BYTES_WAITING: usize = 64 * 1024;
/// Longest body of an HTTP request, bytes.
pub const HTTP_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Publications of one HTTP request.
pub const API_PUBLICATIONS_MAX: usize = 1_000;
/// How long a publication over HTTP waits for room in the ring, milliseconds.
pub const API_ROOM_TIMEOUT_MS: u64 = 5_000;
/// Sessions, channels, members or publications of one answer over HTTP: by default, and at most.
pub const API_PAGE_DEFAULT: usize = 100;
/// See [`API_PAGE_DEFAULT`].
pub const API_PAGE_MAX: usize = 1_000;
/// How long an answer to a request with an idempotency key is given again, milliseconds.
pub const IDEMPOTENCY_MS: u64 = 600_000;
/// Requests with idempotency keys that are remembered.
pub const IDEMPOTENCY_KEYS_MAX: usize = 100_000;
/// Bytes of their answers.
pub const IDEMPOTENCY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest request target, bytes: it may hold a token of several KiB.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// How deep arrays and objects of a message may nest. Clients of the five legacy servers use four.
pub const JSON_DEPTH_MAX: u32 = 64;
/// Longest channel name, bytes, without the tenant in front of it.
pub const CHANNEL_BYTES_MAX: usize = 256;
/// Longest tenant id, bytes; a UUID has 36, a host name's label 63.
pub const TENANT_BYTES_MAX: usize = 128;
/// Longest `type` of a publication, bytes.
pub const KIND_BYTES_MAX: usize = 128;
/// Longest token, bytes. A token with forty permissions has about 1.5 KiB.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest user, tenant, role, permission, token id, and name and value of an attribute, bytes. Names
/// of channels contain them.
pub const IDENTITY_NAME_BYTES_MAX: usize = 200;
/// Attributes of an identity.
pub const IDENTITY_ATTRIBUTES_MAX: usize = 32;
/// Longest subscription id that a client chooses, bytes; a UUID has 36.
pub const SUBSCRIPTION_ID_BYTES_MAX: usize = 128;
/// Server-side subscriptions of a session: `all`, its dialect, user, tenant, roles and permissions.
/// If a token grants more, the rest is ignored.
pub const SERVER_SUBSCRIPTIONS_MAX: usize = 128;
/// Retained values of one channel, such as running jobs.
pub const RETAINED_PER_CHANNEL_MAX: usize = 10_000;
/// Changes of retained values that wait for the durable store; with more, it is told all values.
pub const RETAINED_CHANGED_MAX: usize = 10_000;
/// Longest filter, bytes of JSON. A client can have one filter per subscription stored and indexed.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;
/// Longest number that a filter can name or match, bytes. The shortest text of any 64-bit integer or
/// double has at most 24; converting one takes up to a microsecond per hundred bytes.
pub const FILTER_NUMBER_BYTES_MAX: usize = 64;
/// Filters of one session, bytes of JSON in all: a thousand of 256 bytes.
pub const FILTER_BYTES_PER_SESSION_MAX: u32 = 256 * 1024;
/// Memory that a filter takes at most: these bytes, and so many for each byte of its JSON. A filter
/// that would take more is rejected.
pub const FILTER_MEMORY_BYTES: usize = 512;
/// See [`FILTER_MEMORY_BYTES`].
pub const FILTER_MEMORY_PER_TEXT_BYTE: usize = 8;
/// Keys of one filter. The analytics server's clients use two; each costs a check of every
/// candidate.
pub const FILTER_KEYS_MAX: usize = 32;
/// Alternatives of one key of a filter: for example the users or devices on one screen. Each costs
/// an entry in the table of values.
pub const FILTER_ALTERNATIVES_MAX: usize = 256;
/// Longest dotted path of a filter, bytes; much longer than the paths in any event.
pub const FILTER_PATH_BYTES_MAX: usize = 256;
/// Parts of a dotted path. Each costs two entries in the table of names, one of which holds the
/// whole rest of the path. Events of the analytics server are three levels deep.
pub const FILTER_PATH_PARTS_MAX: usize = 16;

/// Time for a peer that was rejected, or answered over HTTP, to close before the server does,
/// milliseconds.
pub const CLOSE_TIMEOUT_MS: u64 = 5_000;
/// Ping and pong frames waiting for one connection; at most 127 bytes each.
pub const CONTROL_FRAMES_MAX: usize = 32;
/// The cost of handling a message, or a control frame or fragment, beside its bytes, in the unit of the budgets
/// below: about as many bytes as the server decodes in the same time.
pub const MESSAGE_COST: usize = 256;
pub const CONTROL_COST: usize = 24;
/// What one connection may cost at once when bytes arrive from it. The rest waits for its share of
/// the turn, behind the first bytes of all others.
pub const INPUT_COST_AT_ONCE: usize = 1_024;
/// A message of more bytes that has arrived in several pieces is not handled when its last piece
/// arrives, but when its connection has its share of a turn: many may be finished at once.
pub const LARGE_MESSAGE_BYTES: usize = 4 * 1024;
/// How many times as long as its compressed payload a message may be. The format allows 1,032, which
/// long runs of one character reach, and so those who attack with it.
pub const INFLATE_RATIO_MAX: usize = 256;
/// Up to so many bytes, a message may be any number of times as long: what most listeners take at most.
pub const INFLATE_FREE_BYTES: usize = 1024 * 1024;
/// A longer publication or reply is not compressed, as its shard would do nothing else for too long: at
/// the highest level it takes about 35 ms.
pub const COMPRESSED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What a byte of a compressed message of a client costs beside what it becomes, in the unit of the budgets
/// below.
pub const INFLATION_COST: usize = 8;
/// What a byte that is compressed costs, in the unit of the budgets below.
pub const COMPRESSION_COST: usize = 2;
/// What the input that waits may cost in one turn of the event loop, and one connection at a time in
/// it: about a quarter of a millisecond, and a sixteenth of that.
pub const INPUT_COST_PER_TURN: usize = 64 * 1024;
pub const INPUT_COST_PER_SHARE: usize = 4 * 1024;
/// Input that waits for one connection, bytes: with more, nothing is received from it until less
/// than the other is left. A client that has yet to authenticate has the smaller pair.
pub const INPUT_WAITING: (usize, usize) = (64 * 1024, 16 * 1024);
pub const INPUT_WAITING_UNAUTHENTICATED: (usize, usize) = (4 * 1024, 2 * 1024);
/// Replies that wait for one connection, bytes: with more, none of its input is handled. The smaller
/// one is for clients that have yet to authenticate.
pub const REPLY_BYTES_WAITING: u32 = 64 * 1024;
pub const REPLY_BYTES_WAITING_UNAUTHENTICATED: u32 = 4 * 1024;
/// What may wait for one connection, or of an unfinished message, while the process is over its
/// budget, bytes: with more, the connection is closed.
pub const WAITING_BYTES_WHEN_SHORT: u32 = 64 * 1024;
/// Pings of one share that are answered each; of further ones only the latest is (RFC 6455 5.5.3).
pub const PINGS_ANSWERED: usize = 16;

/// Longest message of a session that has yet to authenticate, bytes: a token and its envelope, with
/// room for escapes.
pub const UNAUTHENTICATED_MESSAGE_BYTES_MAX: usize = 2 * TOKEN_BYTES_MAX;
/// Receive buffer of such a session, as `SO_RCVBUF` takes it, bytes. The kernel doubles it and may
/// exceed that by a segment, which is 64 KiB in all.
pub const UNAUTHENTICATED_RECEIVE_BYTES: i32 = 24 * 1024;
/// Connections for which a shard's socket table always has room, unless authenticated sessions fill
/// it: when fewer are left, the oldest connection that has yet to authenticate goes. A small table
/// has room for an eighth.
pub const ROOM_FOR_CONNECTIONS: usize = 64;
/// Memory that a shard keeps between messages for what a decoder writes, bytes.
pub const SCRATCH_BYTES_KEPT: usize = 256 * 1024;
/// Shortest time between two answers to messages of one session over its rate limit, milliseconds.
/// The others are counted only: an answer to each would let a flood of input cause one of output.
pub const RATE_ANSWER_INTERVAL_MS: u64 = 1_000;
/// Longest run, bytes: large enough to join sixty-four small publications in one send, small enough
/// that a run held by one slow connection is cheap.
pub const RUN_BYTES_MAX: usize = 64 * 1024;
/// Records read from the ring in one turn of the event loop, so that input and timers get their
/// turn.
pub const RING_RECORDS_PER_TURN: usize = 1_024;
/// Bytes of records read while one fan-out is being sent; less if send queues are small. Records
/// that are read enter the send queues at once, and the send queue of a subscriber that keeps up
/// must never be full because the shard reads too far ahead of the sockets.
pub const RING_BYTES_PER_FANOUT: usize = 256 * 1024;

/// Subscriptions of ended sessions that a shard gives back in one turn of the event loop: a fraction
/// of a millisecond. A filter counts as several.
pub const LEAVING_WORK_PER_TURN: usize = 512;

/// Resolution of timeouts and heartbeats, milliseconds.
pub const WHEEL_TICK_MS: u64 = 100;
/// How often a session is checked whose time to authenticate is over while a complete message of it waits for
/// this server, milliseconds. It ends after twice `auth_timeout` nevertheless.
pub const AUTH_EXTENSION_MS: u64 = WHEEL_TICK_MS;

/// Listeners in one process; five dialects on addresses of two families need ten. The index of a
/// listener is a `u8`.
pub const LISTENERS_MAX: usize = 16;

/// Shards in one process; the largest hosts have fewer cores.
pub const SHARDS_MAX: usize = 512;

/// Threads outside the shards that may publish on channels with a history at the same moment.
pub const OUTSIDE_WRITERS_MAX: usize = 64;
/// How often the history looks whether a writer has finished, before it is tried again in the next
/// turn: a few microseconds.
pub const HISTORY_SPINS: usize = 200;
/// What may be sent in one submission, in sends of a fan-out: large enough that the cost of entering
/// the kernel is negligible per send, small enough that input is handled between two submissions.
pub const SEND_COST_PER_SUBMISSION: usize = 256;
/// What a reply or a control frame counts for. Its client waits for it and its socket is cold, so the
/// send itself takes several times as long; and where many ask at once, others' messages are behind
/// their requests, which must be read at least as fast as they come.
pub const REPLY_SEND_COST: usize = 16;
/// Bytes of entries that a shard sends to subscribers that recover in one turn of the event loop: a
/// fraction of a millisecond.
pub const RECOVERY_BYTES_PER_TURN: usize = 64 * 1024;
/// The same while others wait to be sent to: those go first.
pub const RECOVERY_BYTES_PER_BUSY_TURN: usize = 8 * 1024;
/// Subscribers that recover which it looks at in one turn.
pub const RECOVERIES_PER_TURN: usize = 256;
/// What one subscriber is sent at a time, before the others get their turn.
pub const RECOVERY_STEP_ENTRIES: usize = 64;
pub const RECOVERY_STEP_BYTES: usize = 32 * 1024;
/// With more bytes waiting for it, a subscriber is sent no more entries until it has read some.
pub const RECOVERY_BYTES_WAITING: u32 = 64 * 1024;
/// Frames of entries that a shard keeps for the next subscribers that recover, bytes.
pub const RECOVERY_BYTES_KEPT: usize = 1024 * 1024;
/// Publications in the answer to a request for history, if the client names no number, and at most.
pub const HISTORY_REPLY_MESSAGES: u32 = 100;
pub const HISTORY_REPLY_MESSAGES_MAX: u32 = 1_000;
/// Bytes of the publications in such an answer.
pub const HISTORY_REPLY_BYTES_MAX: usize = 256 * 1024;
/// Earlier processes whose positions in the history count.
pub const HISTORY_RUNS_MAX: usize = 256;
/// What a store has beside twice the last checkpoint when the next one is written, bytes.
pub const JOURNAL_CHECKPOINT_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Time after which a checkpoint is written if anything was, milliseconds.
pub const JOURNAL_CHECKPOINT_MS_MAX: u64 = 3_600_000;
/// Time between two checkpoints, if one is wanted, milliseconds.
pub const JOURNAL_CHECKPOINT_MS_MIN: u64 = 10_000;
/// Deletions that checkpoints repeat: so many, and for so long, milliseconds. No shard takes that long to
/// append what it has published.
pub const JOURNAL_DELETIONS_MAX: usize = 10_000;
pub const JOURNAL_DELETIONS_MS: u64 = 600_000;
/// Bytes of the history that are copied for a checkpoint while a part of the table is locked.
pub const JOURNAL_PAGE_BYTES: usize = 64 * 1024;
/// Time that a store has at the end for what has changed last, milliseconds.
pub const JOURNAL_END_MS: u64 = 5_000;
/// Users in one part of the table of whom it is noted that the store does not know their state yet; with
/// more, the store gets the whole table.
pub const OFFLINE_CHANGED_MAX: usize = 16_384;
/// Channels of each of the 64 parts of the history of which it is known what they have lost, after
/// their last entry is gone: at most 4 MiB in all. Less than half of what a hash table of 2,048
/// buckets takes, so that it never grows.
pub const HISTORY_REMOVED_MAX: usize = 800;
/// Channels on which it is remembered where one user stopped.
pub const OFFLINE_CHANNELS_PER_USER_MAX: usize = 4_096;
/// Subscriptions that a shard restores in one turn of the event loop, and of one client at a time.
pub const RESTORED_PER_TURN: usize = 256;
pub const RESTORED_PER_STEP: usize = 32;
/// Memory for persistent subscriptions for each user who may be remembered, bytes; all share it.
pub const PERSISTENT_BYTES_PER_USER: u64 = 1_024;
/// Users that one sweep of those with persistent subscriptions forgets.
pub const PERSISTENT_SWEEP_MAX: usize = 512;
/// Users of one part of the table of whom it is noted that their persistent subscriptions have
/// changed, until a store is told; of more it looks at all.
pub const PERSISTENT_CHANGED_MAX: usize = 4_096;
/// Channels of which a shard announces in one turn of the event loop who came and went: a fraction of
/// a millisecond.
pub const PRESENCE_ANNOUNCEMENTS_PER_TURN: usize = 64;
/// Users that one announcement names as joined, and as many as left; it has their counts besides.
pub const PRESENCE_EVENT_USERS_MAX: usize = 100;
/// Users in the answer to a request who is on a channel, if the client names no number, and at most.
pub const PRESENCE_REPLY_USERS: u32 = 100;
pub const PRESENCE_REPLY_USERS_MAX: u32 = 1_000;
/// Bytes of the ids of the users in such an answer.
pub const PRESENCE_REPLY_BYTES_MAX: usize = 64 * 1024;
/// Users that one sweep of those who are offline forgets.
pub const OFFLINE_SWEEP_MAX: usize = 512;
/// Channels that one sweep of the history looks at, while publishers wait: a fraction of a
/// millisecond.
pub const HISTORY_SWEEP_MAX: usize = 512;

/// Payload of a stored record, bytes: as large as any message that a setting allows in practice.
/// With its key and its frame it must fit a batch, which is then as large as the record.
pub const STORE_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Key of a stored record, bytes; its length is a `u16` in the file.
pub const STORE_KEY_BYTES_MAX: usize = 65_535;
/// What an appender collects before it hands it to the thread of the store without being asked to,
/// bytes: enough that the queue costs nothing per record.
pub const STORE_CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that may wait for the thread of the store. Their bytes have a limit of their own in the
/// configuration; this bounds the queue's table, at 64 bytes each.
pub const STORE_QUEUE_CHUNKS: usize = 16 * 1024;
/// What the store writes at once, bytes: about a millisecond of a fast disk, so that what is done once
/// for each write costs little.
pub const STORE_BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Batches in memory: one is written, one waits for that, so that the disk does not, and one is filled.
pub const STORE_BATCHES: usize = 3;
/// Damages of a store that are listed one by one; more are counted.
pub const STORE_DAMAGES_LISTED: usize = 1_000;
/// Time after which a disk that does not answer counts as failed, milliseconds: a slow one that is
/// shared with others takes less.
pub const STORE_ANSWER_MS: u64 = 5_000;
/// Smallest and largest size of a segment, bytes. A segment is read at once when the store is
/// recovered.
pub const STORE_SEGMENT_BYTES: (u64, u64) = (1024 * 1024, 1024 * 1024 * 1024);

/// Spans that wait to be exported; further ones are dropped. About 150 bytes each.
pub const TRACE_SPANS_WAITING: usize = 8_192;
/// Connections of a shard that are traced at a time, so that callers who ask for traces cannot fill its
/// memory; those above it are not.
pub const TRACED_CONNECTIONS_MAX: usize = 4_096;
/// Publications of one connection that belong to its trace: a trace of more can hardly be shown.
/// Further ones are traced by chance, as traces of their own.
pub const TRACED_PUBLICATIONS_MAX: u32 = 100;
/// Fan-outs of a shard whose ends are awaited at a time; the spans of more are dropped.
pub const TRACED_FAN_OUTS_MAX: usize = 256;
/// Bytes of a channel's name or of a path in a span.
pub const TRACE_TEXT_BYTES_MAX: usize = 256;

/// Names of programs that publish through shared memory and are counted apart; all others are counted
/// together.
pub const INGEST_NAMES_MAX: usize = 64;
/// Records of one source that are read before it is another one's turn.
pub const INGEST_TURN_RECORDS: usize = 256;
/// Bytes of one source after which it is another one's turn, and one largest record.
pub const INGEST_TURN_BYTES: usize = 256 * 1024;
/// Time between two looks at who comes and goes, milliseconds. A claim of a program that was killed is
/// taken back in the third one, which is below 100 ms.
pub const INGEST_TICK_MS: u64 = 25;
/// Programs that are accepted in one look: each gets a ring, which takes time.
pub const INGEST_ACCEPTS_PER_LOOK: usize = 4;
/// Time in which what was written before the server ends is read, milliseconds.
pub const INGEST_END_MS: u64 = 1_000;
/// Looks without anything to read after which a program that is gone counts as read, though it has claimed more: a
/// second.
pub const INGEST_END_LOOKS: u32 = 40;
/// Lines per second in the log about programs that come and go.
pub const INGEST_LOG_LINES_PER_SECOND: u32 = 10;

/// Time for which a subscription waits for the publications of other nodes on its channel, milliseconds.
pub const NODE_WAIT_MS: u64 = 1_000;
/// Tasks that the thread of Redis takes at a time.
pub const NODE_TASKS_PER_TURN: usize = 512;
/// Publications that are sent to Redis at once; the answer to all of them is awaited before the next.
pub const NODE_BATCH_MAX: usize = 512;
/// Channels whose history is read in Redis at once.
pub const NODE_CATCH_UPS_AT_ONCE: usize = 20;
/// Messages of a channel that are read from the history in Redis at once.
pub const NODE_CATCH_UP_MESSAGES: usize = 50;
/// Bytes of messages from Redis that may wait for room in the ring. With more, the connection is given up
/// and what is missed is read from the history later.
pub const NODE_DELIVERIES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time between two messages of a node to itself, by which it knows that Redis delivers, milliseconds.
pub const NODE_CANARY_MS: u64 = 500;
/// How long a node that is gone counts as one that comes back, milliseconds.
pub const NODE_PEER_MS: u64 = 60_000;
/// How long publications that were kept wait for nodes that are not back yet, milliseconds: a little more
/// than the longest time between two attempts to connect.
pub const NODE_PEERS_WAIT_MS: u64 = 6_000;
/// Questions of a node that wait for answers, and those of others that it answers, at once.
pub const NODE_QUESTIONS_MAX: usize = 256;
/// Longest answer of a node, bytes. What does not fit is asked for again, from where the answer ends.
pub const NODE_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the entries of an answer, after which no other one is added; the last one may be long.
pub const NODE_ANSWER_PAGE_BYTES: usize = 256 * 1024;
/// Bytes of the answers that a node has to all its questions together.
pub const NODE_ANSWERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long an answer waits until what came before the question is delivered, milliseconds.
pub const NODE_ANSWER_WAIT_MS: u64 = 300;
/// Time in which publications of a user are deleted in all histories in Redis, milliseconds.
pub const NODE_DELETION_MS: u64 = 60_000;
/// Shortest and longest time between two attempts to connect to Redis, milliseconds.
pub const NODE_RETRY_MS: (u64, u64) = (100, 5_000);
/// Parts of the table of presence that a node tells in whole at once when it has connected.
pub const NODE_PRESENCE_PARTS_AT_ONCE: usize = 8;
/// Time between two parts of the table of presence that a node tells in whole, milliseconds.
pub const NODE_TELL_PART_MS: u64 = 1_000;
/// How long Redis keeps what a node has told of presence, milliseconds: some times as long as it takes to tell
/// all parts.
pub const NODE_PRESENCE_TTL_MS: u64 = 600_000;
/// How long Redis keeps the numbers of the last publications that have changed retained values, milliseconds:
/// longer than an outage after which a node sends them again.
pub const NODE_RETAINED_NUMBERS_TTL_MS: u64 = 7 * 86_400_000;
/// Changes of users that may wait until Redis has them; more are dropped and counted.
pub const NODE_USER_CHANGES_MAX: usize = 100_000;
/// Users who arrive, and changes of users, that are sent to Redis at once.
pub const NODE_USERS_AT_ONCE: usize = 256;
/// Time after which it is asked again about a user who has a session on another node, which may be ending, or
/// who has too many, milliseconds.
pub const NODE_SECOND_LOOK_MS: u64 = 100;
/// How often at most it is asked about a user who arrives.
pub const NODE_LOOKS_MAX: u32 = 20;
/// Fields of a user in Redis; what is new beyond that is not kept.
pub const NODE_USER_FIELDS_MAX: usize = 8_192;
/// How long Redis keeps the count of the sessions of a user or a tenant without a change, milliseconds.
pub const NODE_COUNT_TTL_MS: u64 = 7 * 86_400_000;
/// Time in which a shard counts a session that is admitted, milliseconds.
pub const NODE_ADMISSION_MS: u64 = 50;
/// Time after which what has changed of users is sent again, while Redis stores nothing, milliseconds.
pub const NODE_REFUSED_MS: u64 = 500;
/// Time after which a count in Redis is set right, if a session that was to begin has not, milliseconds.
pub const NODE_RECOUNT_MS: u64 = 2_000;
/// Time in which what is left is sent to Redis when the server ends, milliseconds.
pub const NODE_END_MS: u64 = 3_000;
