// SPDX-License-Identifier: Apache-2.0
//
// SimDiskState and SimDisk: the simulated Disk: DiskFiles (common/disk_files.h), as in production,
// over a simulated file system (common/sim_files.h). The state is the medium and survives the
// process; a SimDisk is one process's use of it, on a SimLoop. Operations run one after the other,
// each taking 50 to 500 us of virtual time, drawn from the disk's Random, and happening at its end.
//
// The end of a process is a power cut to its disk: what was not synced may go. That is harsher than
// a kill, which leaves the page cache, and no harsher than what a Disk promises.
//
// Thread safety: one thread.
// Ownership: SimDisk borrows loop and state; both outlive it. One SimDisk at a time uses a state.
// Invariants, which are those of DiskFiles' code and not of this one:
//   (1) what an operation reported as done is never undone, except by RollBackTo(), Rot() and
//       MisdirectNextWrite();
//   (2) a file is whole at every moment: an unfinished write leaves the old or the new content,
//       or after TearAtCrash() one that fails its checksum;
//   (3) of the operations that a crash cuts off, a prefix in the order of the calls took effect.
//       The last of them may have got as far as any of its system calls.
// Errors: as Disk, at the same inputs as RealDisk; the knobs below make the rest.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "common/disk.h"
#include "common/disk_files.h"
#include "common/loop.h"
#include "common/random.h"
#include "common/sim_files.h"

namespace gemel {

class SimDiskState {
 public:
  using Contents = std::map<std::string, std::string>;

  // The machine or the process died: operations under way come to their chance end, and what was
  // not synced may go. Call it after the loop was killed; a new SimDisk does it too.
  void Crash(Random* random);

  // While full, every write gives ResourceExhausted, except one in place into a file that has the
  // room; removing works.
  void set_full(bool full) { file_system_.set_full(full); }

  // The next write or removal gives Unavailable and leaves its file old or new: one of its syncs
  // fails, or from one on all of a write in place, which makes a new file else.
  void FailNextSync() { fail_next_sync_ = true; }

  // The next write is reported as done, and its first block lands on another file. Its own file
  // stays as it was when it is no longer than that, unless it is written in place: that has two
  // copies.
  void MisdirectNextWrite() { misdirect_next_write_ = true; }

  // The next crash leaves what was being written torn. One of two copies torn leaves the other.
  void TearAtCrash() { tear_at_crash_ = true; }

  // Operations take `factor` times as long. REQUIRES: factor > 0.
  void set_slowness(uint32_t factor);

  // A bit of the file flips, in header or content, and of both copies where there are two: Read()
  // gives DataLoss until it is written anew. False when there is none.
  bool Rot(const std::string& name);

  // No knob is set any more.
  void Calm();

  // What the knobs did, each counted where it struck; of syncs and of a full disk, the calls.
  struct Stats {
    uint64_t failed_syncs = 0;
    uint64_t refused_full = 0;
    uint64_t misdirected = 0;
    uint64_t torn = 0;
    uint64_t slow_operations = 0;
  };

  Stats stats() const;

  // Of contents: equal disks give equal digests.
  uint64_t Digest() const;

  // Puts an old picture of the disk back, as a restored backup or a reverted volume does.
  void RollBackTo(Contents contents);

  // Everything gone, as after a replaced disk.
  void Wipe() { RollBackTo({}); }

  // What would be there after a crash that took along nothing but what was synced. Of a file that
  // fails its checksum the bytes as they are, with their frame.
  Contents contents() const;
  // What Read() would give after such a crash.
  absl::StatusOr<std::string> Durable(const std::string& name) const;

  bool Has(const std::string& name) const { return Durable(name).ok(); }

  // Names of files that Rot() has hit and that were read as good since: no checksum looked at them.
  const std::vector<std::string>& believed() const { return believed_; }

  // Names of all files that can be read now, or could but for their checksum.
  std::vector<std::string> Names() const;

 private:
  friend class SimDisk;

  // One write (content set) or removal.
  struct Change {
    uint64_t serial = 0;
    std::string name;
    std::optional<std::string> content;
    bool in_place = false;
  };

  void Open(Random random);
  absl::Status Run(const Change& change, Random* random);
  absl::Status Do(const Change& change);
  void EndWithin(const Change& change, Random* random);
  absl::Status Finish(uint64_t serial, Random* random);
  absl::StatusOr<std::string> Read(const std::string& name);

  SimFileSystem file_system_;
  std::unique_ptr<DiskFiles> files_;        // of the process that uses this, or did until it died
  SimFileCalls* calls_ = nullptr;           // below files_
  std::deque<Change> unfinished_;           // in the order of the calls
  std::map<std::string, uint64_t> rotten_;  // digests of their bytes, as Rot() left them
  std::vector<std::string> believed_;
  uint64_t next_serial_ = 1;
  uint32_t slowness_ = 1;
  bool fail_next_sync_ = false;
  bool misdirect_next_write_ = false;
  bool tear_at_crash_ = false;
  bool in_use_ = false;
  Stats stats_;  // without those of file_system_
};

class SimDisk final : public Disk {
 public:
  // Settles what a former process left unfinished (SimDiskState::Crash).
  SimDisk(Loop* loop, SimDiskState* state, Random random);
  // Operations under way give Cancelled; the next SimDisk or Crash() settles them.
  ~SimDisk() override;

  Task<absl::StatusOr<std::string>> Read(std::string name) override;
  Task<absl::Status> WriteAtomically(std::string name, std::string content) override;
  Task<absl::Status> WriteInPlace(std::string name, std::string content) override;
  Task<absl::StatusOr<std::vector<std::string>>> List(std::string prefix) override;
  Task<absl::Status> Remove(std::string name) override;

 private:
  // What operations under way need. Shared: their coroutines may outlive the disk.
  struct Use {
    Loop* loop;
    SimDiskState* state;
    Random random;
    TimePoint free_at{};  // when the last operation begun so far ends
    bool closed = false;
  };

  static Task<absl::StatusOr<std::string>> DoRead(std::shared_ptr<Use> use, std::string name);
  static Task<absl::StatusOr<std::vector<std::string>>> DoList(std::shared_ptr<Use> use,
                                                               std::string prefix);
  static Task<absl::Status> DoChange(std::shared_ptr<Use> use, SimDiskState::Change change);
  static Task<absl::Status> TakeTurn(std::shared_ptr<Use> use);

  const std::shared_ptr<Use> use_;
};

}  // namespace gemel
