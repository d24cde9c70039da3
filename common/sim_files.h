// SPDX-License-Identifier: Apache-2.0
//
// SimFileSystem and SimFileCalls: a simulated POSIX file system, for small files. The file system
// is the medium with its page cache and survives processes; a SimFileCalls is one process's use of
// it.
//
// Everything is there twice: as the calls made it, and as the medium has it. What a file holds
// becomes durable with a sync of the file, in blocks of 4 KiB; what a directory lists, with a sync
// of that directory and with nothing else, which is less than ext4 does and all that POSIX
// promises.
//
// Thread safety: one thread.
// Ownership: a SimFileCalls borrows its file system, which outlives it, and gives back descriptors
// and locks when it goes. Inodes are shared: names, the journal and descriptors each hold them, as
// links do.
// Invariants:
//   (1) what was synced without an error outlives every Crash();
//   (2) of what was not synced, each block and the length of a file are old or new by chance, and
//       of the changes of names a prefix in the order of the calls remains;
//   (3) pages whose sync failed are clean: no later sync writes them, and the next Crash() takes
//       them, unless they are gone at once;
//   (4) the same calls and draws give the same file system.
// Errors: errno, as the kernel gives it at the same calls.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/file_calls.h"
#include "common/random.h"

namespace gemel {

class SimFileCalls;

class SimFileSystem {
 public:
  // The one directory that is always there.
  static constexpr std::string_view kTop = "/data";

  enum class View : uint8_t {
    kCached,   // what a process reads
    kDurable,  // what a crash leaves that takes all it may take
  };

  SimFileSystem() { Format(); }

  SimFileSystem(const SimFileSystem&) = delete;
  SimFileSystem& operator=(const SimFileSystem&) = delete;

  // The power goes: invariants (1) and (2). What is left is durable.
  void Crash(Random* random);
  // Nothing but the top.
  void Format();
  // Makes a durable file and the directories above it.
  void Put(const std::string& path, std::string bytes);

  // Null when there is no such file.
  const std::string* Find(const std::string& path, View view) const;
  // Paths of the regular files below the top, sorted.
  std::vector<std::string> Files(View view) const;

  // Flips a bit of a file, on the medium and in the cache. REQUIRES: the file has it.
  void FlipBit(const std::string& path, uint64_t bit);
  // From somewhere on the file holds nothing, or other bytes, on the medium and in the cache.
  // REQUIRES: there is such a file.
  void Tear(const std::string& path, Random* random);

  // Files do not grow and directories are not made: ENOSPC.
  void set_full(bool full) { full_ = full; }

  // After the next `passed` syncs, so many fail: EIO. None is to fail any more with 0.
  void FailSyncs(uint32_t passed, uint32_t failing) {
    syncs_passed_ = passed;
    syncs_failing_ = failing;
  }

  // The first block of the next write lands on another file, within its length, and not on the one
  // at `spared`. A new file that is no longer than that goes with it: its name stays what it was.
  // With nothing, no write is to go astray any more.
  void MisdirectNextWrite(std::optional<std::string> spared) { misdirected_ = std::move(spared); }

  struct Stats {
    uint64_t failed_syncs = 0;
    uint64_t refused_full = 0;
    uint64_t misdirected = 0;
  };

  const Stats& stats() const { return stats_; }

 private:
  friend class SimFileCalls;

  struct Inode {
    bool is_directory = false;
    bool astray = false;  // all that was written to it landed elsewhere
    std::string cached;
    std::string durable;
    std::set<size_t> dirty;  // blocks of `cached` that the next sync writes
    const SimFileCalls* locked_by = nullptr;
  };

  using Names = std::map<std::string, std::shared_ptr<Inode>>;

  // `from` goes when it is not empty, `to` is the inode then when it is not empty.
  struct Change {
    std::string from;
    std::string to;
    std::shared_ptr<Inode> inode;
  };

  static void Apply(const Change& change, Names* names);
  static void WriteBlock(size_t block, Inode* inode);
  static void Settle(Inode* inode, Random* random);

  // Errno of a path that is not there.
  int WhyMissing(const std::string& path) const;
  // 0, or the errno of making `path`.
  int MayMake(const std::string& path) const;
  void Make(Change change);
  bool Refuse();
  bool Misdirect(Inode* inode, uint64_t offset, ByteSpan bytes, Random* random);
  int Write(Inode* inode, uint64_t offset, ByteSpan bytes, Random* random);
  int Sync(const std::string& path, Inode* inode, Random* random);
  void CommitDirectory(std::string_view path);

  Names names_;
  Names durable_names_;
  std::vector<Change> journal_;  // of names, not durable yet, in the order of the calls
  bool full_ = false;
  std::optional<std::string> misdirected_;  // what the write that goes astray spares
  uint32_t syncs_passed_ = 0;
  uint32_t syncs_failing_ = 0;
  Stats stats_;
};

class SimFileCalls final : public FileCalls {
 public:
  // Draws from `random` what chance decides during calls.
  SimFileCalls(SimFileSystem* files, Random random);
  ~SimFileCalls() override;
  SimFileCalls(const SimFileCalls&) = delete;
  SimFileCalls& operator=(const SimFileCalls&) = delete;

  // The process dies after so many more calls: all later ones have no effect and give EIO.
  void DieAfter(uint32_t calls) { calls_left_ = calls; }

  int Open(const std::string& path, int flags) override;
  int Close(int fd) override;
  ssize_t Read(int fd, MutableByteSpan into) override;
  ssize_t Write(int fd, ByteSpan bytes) override;
  int Seek(int fd, uint64_t offset) override;
  int Sync(int fd) override;
  int Stat(int fd, struct stat* about) override;
  int LockAlone(int fd) override;

  bool IsDirectory(const std::string& path) override;
  int MakeDirectory(const std::string& path) override;
  int Rename(const std::string& from, const std::string& to) override;
  int Unlink(const std::string& path) override;
  int FilesBelow(const std::string& path, std::vector<std::string>* files) override;

 private:
  struct Descriptor {
    std::string path;  // when it was opened; that of a directory stays
    std::shared_ptr<SimFileSystem::Inode> inode;
    uint64_t offset = 0;
  };

  bool Lives();
  // Null, with errno, after death and for a number that is not open.
  Descriptor* Use(int fd);

  SimFileSystem* const files_;
  Random random_;
  std::map<int, Descriptor> descriptors_;
  int next_fd_ = 3;
  std::optional<uint32_t> calls_left_;
};

}  // namespace gemel
