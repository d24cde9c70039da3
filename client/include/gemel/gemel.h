/* SPDX-License-Identifier: Apache-2.0
 *
 * Gemel's client library, C ABI: keeps the sharded state of a training job in the memory of the
 * hosts of a cluster, and gives it back when something dies. Plain C; client.h is the same in C++.
 *
 *   connect -> acquire the epoch -> restore, or nothing -> open, write, seal, wait, once a save
 *
 * The library talks to the Gemel server of its own host over a unix socket, on one background
 * thread a client. Bytes are copied and hashed on the caller's thread, straight into memory shared
 * with the server.
 *
 * Errors: a function that can fail returns a gemel_status. Its code is one of enum gemel_code (0 =
 * success); its message, when not null, names the thing, the sizes and the way out, and is the
 * caller's to free with gemel_status_free(). Out parameters are written only on success, but for
 * handles, which are set to null first.
 *
 * Ownership: what an "open", "begin" or "connect" gives is the caller's, to be freed with the _free
 * function of its kind, in any order. Strings and structures passed in are copied or read before
 * the function returns. Strings handed out belong to the handle they came from and live as long as
 * it does, but for messages.
 *
 * Threads: functions on different handles, any threads. On one handle: as each kind says.
 *
 * Fork: a child of fork() can use no handle made before it: calls give GEMEL_FAILED_PRECONDITION,
 * _free does nothing to the parent's connection, shared memory is not inherited. Connect again in
 * the child.
 *
 * Time: timeouts are milliseconds, at least 0. When one passes the outcome is unknown, not undone
 * (GEMEL_DEADLINE_EXCEEDED): ask again. A call ends at the latest 15 seconds after its timeout.
 *
 * Growth: option and result structures begin with struct_bytes, set by the caller to sizeof; fields
 * are only ever added at the end, and a library never reads or writes beyond struct_bytes.
 */
#ifndef GEMEL_GEMEL_H_
#define GEMEL_GEMEL_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define GEMEL_API __attribute__((visibility("default")))
#else
#define GEMEL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Canonical status codes; the numbers are for ever. */
enum gemel_code {
  GEMEL_OK = 0,
  GEMEL_CANCELLED = 1,           /* the wait was interrupted, or the client was closed */
  GEMEL_UNKNOWN = 2,             /* what happened is unknown */
  GEMEL_INVALID_ARGUMENT = 3,    /* the request itself is wrong; repeating it cannot help */
  GEMEL_DEADLINE_EXCEEDED = 4,   /* no answer in time; what happened is unknown */
  GEMEL_NOT_FOUND = 5,           /* there is no such thing */
  GEMEL_ALREADY_EXISTS = 6,      /* the same name with other content */
  GEMEL_PERMISSION_DENIED = 7,   /* another user's server, or an address beyond this machine */
  GEMEL_RESOURCE_EXHAUSTED = 8,  /* memory is used up; the message holds the sizes */
  GEMEL_FAILED_PRECONDITION = 9, /* closed, forked, sealed already, superseded, another version */
  GEMEL_ABORTED = 10,            /* a newer epoch or attempt took the place of this one */
  GEMEL_UNIMPLEMENTED = 12,
  GEMEL_INTERNAL = 13,    /* a bug of Gemel: please report it */
  GEMEL_UNAVAILABLE = 14, /* the server cannot be reached now: try again */
  GEMEL_DATA_LOSS = 15    /* bytes are gone or do not match their digest; the message names them */
};

/* Result of a call. `message` is null on success; otherwise the caller's, for gemel_status_free().
 */
typedef struct gemel_status {
  int code; /* enum gemel_code */
  char* message;
} gemel_status;

/* Frees the message and sets it to null. Null and a second call are harmless. */
GEMEL_API void gemel_status_free(gemel_status* status);

/* "0.1.0": of the library that is loaded. Static. */
GEMEL_API const char* gemel_version(void);

/* Bytes of state that the library copied from one place in this process's memory to another, since
 * it was loaded, over all clients: 1 for each byte written, 1 for each byte read. Only grows; for
 * measurements take the difference. Any thread. */
GEMEL_API uint64_t gemel_copied_bytes(void);

/* OK when CUDA memory can be written here. GEMEL_UNIMPLEMENTED: this library was built without
 * CUDA; GEMEL_FAILED_PRECONDITION: there is no driver, or no device. Loads the driver. Any thread.
 */
GEMEL_API gemel_status gemel_cuda_check(void);

/* Bytes, of those written from CUDA memory since the library was loaded, that went through host
 * memory which the driver would not register: right, but slowly. Any thread. */
GEMEL_API uint64_t gemel_cuda_unpinned_bytes(void);

/* 16 unpredictable bytes, written to `token`: what one incarnation of a job shares. One rank draws
 * it and gives it to all others (a broadcast); a program of one process draws its own. */
GEMEL_API void gemel_token_draw(uint8_t token[16]);

/* ---- client: one connection to the server of this host. Any thread, any number at a time. */

typedef struct gemel_client gemel_client;

typedef struct gemel_client_options {
  size_t struct_bytes; /* sizeof(gemel_client_options) */
  /* unix:///PATH, or /PATH: the socket of this host's server. Not null. */
  const char* address;
  int64_t timeout_ms; /* of the connection, and of every call that has no timeout of its own */
  /* Null, or called about every 50 ms on a thread that waits inside a call. Other than 0 ends that
   * wait with GEMEL_CANCELLED; the work itself is given up in the background. It may not call the
   * library. */
  int (*interrupted)(void* context);
  void* context; /* handed to `interrupted`; the caller's, must live as long as the client */
} gemel_client_options;

/* GEMEL_UNAVAILABLE, naming the address and the way out, when no server answers there;
 * GEMEL_FAILED_PRECONDITION, naming both versions, when it speaks another protocol. */
GEMEL_API gemel_status gemel_client_connect(const gemel_client_options* options,
                                            gemel_client** client);

/* 32 hexadecimal digits: the cluster (for ever), and the server of this host. The client's strings.
 */
GEMEL_API const char* gemel_client_cluster_id(const gemel_client* client);
GEMEL_API const char* gemel_client_server_id(const gemel_client* client);
/* The address, as the library understood it. The client's string. */
GEMEL_API const char* gemel_client_address(const gemel_client* client);

/* Ends the connection; calls that wait, and later ones, fail. Saves that are sealed go on in the
 * cluster, unsealed ones are given up. Idempotent. The handle stays valid until
 * gemel_client_free(). */
GEMEL_API void gemel_client_close(gemel_client* client);
/* Closes and frees. Null is harmless. Writers and restores of this client stay valid handles whose
 * calls fail. REQUIRES: no call on `client` is in progress. */
GEMEL_API void gemel_client_free(gemel_client* client);

/* One incarnation of a job; ordered by (generation, counter). */
typedef struct gemel_epoch {
  uint64_t generation; /* of the cluster */
  uint64_t counter;    /* within it, starts at 1 */
} gemel_epoch;

/* Makes `token` the job's present incarnation; all ranks call it with the same token and get the
 * same epoch. From then on earlier incarnations can neither save nor restore. A superseded token is
 * refused for ever (GEMEL_FAILED_PRECONDITION or GEMEL_ABORTED): its process must stop. */
GEMEL_API gemel_status gemel_epoch_acquire(gemel_client* client, const char* job,
                                           const uint8_t token[16], gemel_epoch* epoch);

/* ---- writer: one rank's shard of one snapshot. write, seal and abort exclude one another; wait
 * may run on another thread. */

typedef struct gemel_writer gemel_writer;

enum gemel_on_busy {
  GEMEL_ON_BUSY_WAIT = 0, /* until earlier saves have made room */
  GEMEL_ON_BUSY_SKIP = 1  /* no snapshot this time, the same for all ranks */
};

/* How the copies of a job's shards are spread over the servers; equal on all ranks. */
enum gemel_strategy {
  /* Groups of `copies` servers that keep each other's shards; where the servers do not come out
   * even, the last ones form a ring. Survives most losses. */
  GEMEL_STRATEGY_GROUP = 0,
  GEMEL_STRATEGY_RING = 1 /* one ring: a server's shards lie at the next copies - 1 servers too */
};

typedef struct gemel_snapshot_options {
  size_t struct_bytes;  /* sizeof(gemel_snapshot_options) */
  const char* job;      /* not null, as the epoch was acquired */
  gemel_epoch epoch;    /* what gemel_epoch_acquire() gave */
  const char* name;     /* not null; a training step is a name: "7" */
  uint32_t attempt;     /* equal on all ranks, other for every try to save the same name */
  uint32_t rank;        /* below world_size */
  uint32_t world_size;  /* at least 1 */
  uint64_t shard_bytes; /* of this rank; exactly as many are to be written */
  uint64_t
      layout_bytes; /* leading bytes of the shard that say what the rest is; at most shard_bytes */
  uint8_t layout_hash[16]; /* of the layout of the whole job: equal on all ranks */
  uint32_t copies;         /* servers that hold each shard, the local one included; at least 1 */
  uint32_t min_copies;     /* below it the save fails; 0: = copies */
  uint32_t keep_latest;    /* committed snapshots that stay; 0: all */
  int on_busy;             /* enum gemel_on_busy */
  int64_t timeout_ms; /* of the open; and after it an attempt that is not committed is aborted */
  /* Which committed snapshots also go to disk: every n-th, and the first after an interval; zeros:
   * none. The three fields after them: 0 takes the default. */
  uint32_t persist_every;
  uint32_t persist_interval_s;
  uint32_t persist_copies; /* disks that hold each shard; default 1 */
  uint32_t persist_keep;   /* persisted snapshots that stay on disk; default 2 */
  /* Null, or the 16 bytes of gemel_stage_id(): the shard is what was staged there, by this process
   * or another of this host and user; sizes as it was staged; nothing is to be written any more. */
  const uint8_t* stage;
  int strategy; /* enum gemel_strategy */
} gemel_snapshot_options;

/* Returns when the cluster has accepted the snapshot and this host's memory for it is there.
 * *writer stays null, with success, when the cluster decided to skip it (GEMEL_ON_BUSY_SKIP).
 * GEMEL_RESOURCE_EXHAUSTED names the sizes when it can never fit. */
GEMEL_API gemel_status gemel_snapshot_open(gemel_client* client,
                                           const gemel_snapshot_options* options,
                                           gemel_writer** writer);

/* The snapshot's number within its job: rises with every accepted open. */
GEMEL_API uint64_t gemel_writer_sequence(const gemel_writer* writer);
/* Milliseconds that the open waited for earlier saves or for memory. */
GEMEL_API double gemel_writer_waited_ms(const gemel_writer* writer);

/* Appends `size` bytes of `data`, which may change as soon as this returns. `offset` must be the
 * number of bytes written so far: shards are written front to back, each byte once. No system call.
 */
GEMEL_API gemel_status gemel_writer_write(gemel_writer* writer, uint64_t offset, const void* data,
                                          size_t size);
/* The same from CUDA memory (DESIGN section 7): `data` is an address of the device, as it is after
 * all that `stream` (a CUstream or cudaStream_t of that device; null: the default stream) was given
 * so far. The device copies straight into the server's memory, on a stream of the library's own,
 * and each MiB is hashed here as it arrives. Returns when all of it has: the memory may change
 * then. Errors besides: what gemel_cuda_check() says; GEMEL_INVALID_ARGUMENT for other memory;
 * GEMEL_FAILED_PRECONDITION when the device failed. After these two the shard is to be aborted. */
GEMEL_API gemel_status gemel_writer_write_cuda(gemel_writer* writer, uint64_t offset,
                                               const void* data, size_t size, void* stream);

/* Ends writing: the library drops its writable view of the memory and the cluster takes over. The
 * commit is waited for by gemel_writer_wait(). GEMEL_FAILED_PRECONDITION when bytes are missing. */
GEMEL_API gemel_status gemel_writer_seal(gemel_writer* writer);

typedef struct gemel_commit {
  size_t struct_bytes; /* sizeof(gemel_commit), set by the caller */
  uint64_t sequence;
  uint32_t copies;     /* of the shard that has the fewest */
  int redundancy_full; /* 0: committed with fewer copies than asked for (min_copies allows it) */
  uint8_t root[16];    /* digest of the snapshot: equal on all ranks */
  double committed_ms; /* from the seal to the word of the commit */
} gemel_commit;

/* Returns when the snapshot of all ranks is committed. GEMEL_DEADLINE_EXCEEDED: not yet, wait
 * again; any other error: it was aborted, and the message says why. REQUIRES: sealed. May be called
 * again. */
GEMEL_API gemel_status gemel_writer_wait(gemel_writer* writer, int64_t timeout_ms,
                                         gemel_commit* commit);

/* Gives the attempt up, for all ranks. `why` is shown to them; null: no reason given. Nothing
 * happens when it was aborted before. */
GEMEL_API gemel_status gemel_writer_abort(gemel_writer* writer, const char* why);
/* Frees; a writer that was not sealed is aborted in the background. Null is harmless. */
GEMEL_API void gemel_writer_free(gemel_writer* writer);

/* ---- stage: a shard that is written before it has a name. What is staged and sealed may become
 * the shard of one snapshot (gemel_snapshot_options.stage) without being copied again. Calls on one
 * handle exclude one another. */

typedef struct gemel_stage gemel_stage;

typedef struct gemel_stage_options {
  size_t struct_bytes; /* sizeof(gemel_stage_options) */
  uint64_t shard_bytes;
  uint64_t layout_bytes; /* leading bytes that say what the rest is; at most shard_bytes */
  int64_t timeout_ms;    /* how long to wait for memory */
} gemel_stage_options;

/* Returns when this host's memory for it is there. GEMEL_RESOURCE_EXHAUSTED names the sizes. */
GEMEL_API gemel_status gemel_stage_open(gemel_client* client, const gemel_stage_options* options,
                                        gemel_stage** stage);

/* As gemel_writer_write(). */
GEMEL_API gemel_status gemel_stage_write(gemel_stage* stage, uint64_t offset, const void* data,
                                         size_t size);
/* As gemel_writer_write_cuda(). */
GEMEL_API gemel_status gemel_stage_write_cuda(gemel_stage* stage, uint64_t offset, const void* data,
                                              size_t size, void* stream);

/* Ends writing: from here on it can be opened under a name. GEMEL_FAILED_PRECONDITION when bytes
 * are missing. */
GEMEL_API gemel_status gemel_stage_seal(gemel_stage* stage);

/* What gemel_snapshot_options.stage takes; written to `id`. */
GEMEL_API void gemel_stage_id(const gemel_stage* stage, uint8_t id[16]);

/* Frees the handle and, unless a snapshot took it over, the memory. Null is harmless. */
GEMEL_API void gemel_stage_free(gemel_stage* stage);

/* ---- restore: one rank's part in bringing back the newest committed snapshot. Calls on one handle
 * run one after the other. */

typedef struct gemel_restore gemel_restore;

typedef struct gemel_restore_options {
  size_t struct_bytes; /* sizeof(gemel_restore_options) */
  const char* job;     /* not null, as the epoch was acquired */
  gemel_epoch epoch;   /* what gemel_epoch_acquire() gave */
  uint32_t rank;       /* of the new world; below world_size */
  uint32_t world_size; /* of the new world: need not be the saved one */
  int64_t timeout_ms;  /* of the begin, and of all reads together */
} gemel_restore_options;

/* Chooses one snapshot for all ranks of the epoch and pins it. *restore stays null, with success,
 * when the job never committed here. GEMEL_DATA_LOSS, naming the shards, when everything committed
 * is lost. */
GEMEL_API gemel_status gemel_restore_begin(gemel_client* client,
                                           const gemel_restore_options* options,
                                           gemel_restore** restore);

typedef struct gemel_read_options {
  size_t struct_bytes; /* sizeof(gemel_read_options) */
  const char* job;     /* not null */
  const char* name;    /* null: the newest committed */
  int64_t timeout_ms;  /* of the begin, and of all reads together */
} gemel_read_options;

/* Opens one committed snapshot for reading: no epoch, any process, nobody is fenced. It stays, also
 * when it is replaced or retired meanwhile, until gemel_restore_free(). The handle takes
 * gemel_restore_info, _shard, _read and _free; report and wait are GEMEL_FAILED_PRECONDITION.
 * GEMEL_NOT_FOUND names what is there instead. */
GEMEL_API gemel_status gemel_read_begin(gemel_client* client, const gemel_read_options* options,
                                        gemel_restore** restore);

typedef struct gemel_snapshot_info {
  size_t struct_bytes; /* sizeof(gemel_snapshot_info), set by the caller */
  const char* name;    /* the restore's string */
  uint64_t sequence;
  gemel_epoch epoch;   /* in which it was saved */
  uint32_t world_size; /* of the world that saved it: the number of shards */
  uint32_t round;      /* how often the record has moved to an older snapshot */
} gemel_snapshot_info;

/* What was chosen. Fills `info`. */
GEMEL_API void gemel_restore_info(const gemel_restore* restore, gemel_snapshot_info* info);

typedef struct gemel_shard_info {
  size_t struct_bytes; /* sizeof(gemel_shard_info), set by the caller */
  uint64_t bytes;
  uint64_t layout_bytes; /* leading bytes that say what the rest is */
  uint8_t root[16];      /* digest of the shard */
} gemel_shard_info;

/* Of the rank that saved it. GEMEL_INVALID_ARGUMENT when there is no such shard. */
GEMEL_API gemel_status gemel_restore_shard(const gemel_restore* restore, uint32_t rank,
                                           gemel_shard_info* info);

/* Bytes [offset, offset + size) of a shard, and where they go. The destination is the caller's. */
typedef struct gemel_range {
  uint32_t shard; /* rank that saved it */
  uint64_t offset;
  uint64_t size;
  void* destination;
} gemel_range;

/* Brings all ranges here, from this host's memory and from all peers that hold them at once, and
 * copies them out. Every chunk is verified: a whole one while it is copied, and what does not match
 * is wiped; a part of one before its first byte is copied. On an error the destinations hold
 * anything else; GEMEL_DATA_LOSS and GEMEL_UNAVAILABLE are to be reported. */
GEMEL_API gemel_status gemel_restore_read(gemel_restore* restore, const gemel_range* ranges,
                                          size_t count);

/* Says how it went for this rank: `verified` other than 0, or `why` it could not be read (null: no
 * reason given), with the shards whose reads failed. */
GEMEL_API gemel_status gemel_restore_report(gemel_restore* restore, int verified, const char* why);

enum gemel_restore_outcome {
  GEMEL_RESTORE_VERIFIED = 0,  /* all ranks have their state */
  GEMEL_RESTORE_MOVED = 1,     /* an older snapshot was chosen for all ranks: begin again */
  GEMEL_RESTORE_READ_AGAIN = 2 /* what this rank could not read is not lost: begin again */
};

typedef struct gemel_restore_end {
  size_t struct_bytes;  /* sizeof(gemel_restore_end), set by the caller */
  int outcome;          /* enum gemel_restore_outcome */
  size_t lost_count;    /* sentences for gemel_restore_lost() */
  uint64_t local_bytes; /* that were in this host's memory already */
  uint64_t peer_bytes;  /* that came over the network */
  double begin_ms;      /* until the snapshot was chosen */
  double fetch_ms; /* waited until the bytes were on this host; those before are copied meanwhile */
  double copy_ms;  /* verifying and copying them out */
  double agree_ms; /* until all ranks had verified */
} gemel_restore_end;

/* Returns when every rank has verified or the record moved; on a rank that reported otherwise also
 * when its shards prove not to be lost. GEMEL_DEADLINE_EXCEEDED names for whom it waits. After
 * success the bytes can be read no more. */
GEMEL_API gemel_status gemel_restore_wait(gemel_restore* restore, int64_t timeout_ms,
                                          gemel_restore_end* end);

/* What was lost and why, sentence `index` of gemel_restore_end.lost_count; null beyond. The
 * restore's string. */
GEMEL_API const char* gemel_restore_lost(const gemel_restore* restore, size_t index);

/* Frees; lets the server reuse the memory. Null is harmless. */
GEMEL_API void gemel_restore_free(gemel_restore* restore);

/* ---- listing: what is committed of a job. */

typedef struct gemel_listing gemel_listing;

typedef struct gemel_listed {
  size_t struct_bytes; /* sizeof(gemel_listed), set by the caller */
  const char* name;    /* the listing's string */
  gemel_epoch epoch;
  uint64_t sequence;
  uint32_t attempt;
  uint32_t world_size;
  uint64_t bytes; /* of all shards, one copy */
  int64_t committed_unix_s;
  int persisted; /* other than 0: on disk, whole */
  int in_memory; /* 0: on disk only */
} gemel_listed;

/* By rising order; empty for a job that was never seen. */
GEMEL_API gemel_status gemel_list(gemel_client* client, const char* job, gemel_listing** listing);
GEMEL_API size_t gemel_listing_count(const gemel_listing* listing);
/* Fills `entry`. GEMEL_INVALID_ARGUMENT beyond the end. */
GEMEL_API gemel_status gemel_listing_entry(const gemel_listing* listing, size_t index,
                                           gemel_listed* entry);
GEMEL_API void gemel_listing_free(gemel_listing* listing);

/* Removes every committed snapshot of that name, in memory and on disk. GEMEL_NOT_FOUND when there
 * is none. Not null, either. */
GEMEL_API gemel_status gemel_remove(gemel_client* client, const char* job, const char* name);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* GEMEL_GEMEL_H_ */
