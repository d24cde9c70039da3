// SPDX-License-Identifier: Apache-2.0
//
// Hedged reads (DESIGN section 7, "Tail"): a read that is late is read again from a second source,
// within a budget. The first answer whose digest is right counts, the other read is stopped.
//
//   HedgePolicy  one class of reads: when one is late, and whether the budget has a hedge for it
//   HedgedRead   one read: Start() → Result(), the bytes are there → Ended(), nothing is under way
//
// Thread safety: one loop.
// Source: Dean and Barroso, "The Tail at Scale" (CACM 2013), hedged and tied requests.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"

#include "common/digest.h"
#include "common/sync.h"
#include "transport/read_times.h"
#include "transport/session.h"

namespace gemel {

// The budget: of the requests and of the bytes of a class. A class begins with kHedgesFirst and
// saves up kHedgesSaved at most: hedges come in bursts, and what is refused is a stall that is
// felt.
inline constexpr uint64_t kHedgePercent = 2;
inline constexpr uint64_t kHedgeBytesPercent = 5;
inline constexpr uint64_t kHedgesFirst = 4;
inline constexpr uint64_t kHedgesSaved = 64;

// Of one class of reads, on one server. No IO; time comes from the caller. Integers only.
class HedgePolicy {
 public:
  struct Counts {
    uint64_t reads = 0;
    uint64_t hedged = 0;   // read again
    uint64_t won = 0;      // of these: the second answer was the first that was right
    uint64_t stopped = 0;  // reads that were ended because the other one had won
    uint64_t refused = 0;  // late ones that the budget had nothing for, each time that was asked
    uint64_t wasted_bytes = 0;
  };

  // A read begins: it adds its share to the budget.
  void Begin(uint64_t bytes);

  // How long it may take before it is late.
  Duration Patience() const { return times_.Patience(); }

  // One hedge of so many bytes out of the budget; false: there is none.
  bool Take(uint64_t bytes);

  // What the first source took; of a read that was ended before its answer, the time until then.
  void Record(Duration took) { times_.Record(took); }

  const Counts& counts() const { return counts_; }

 private:
  friend class HedgedRead;

  static constexpr uint64_t kWhole = 100;  // credit of one request, or of one byte

  ReadTimes times_;
  Counts counts_;
  uint64_t requests_ = kHedgesFirst * kWhole;
  uint64_t bytes_ = kHedgesFirst * kChunkBytes * kWhole;
};

// Ownership: shared by who waits and the reads under way; `policy` outlives them.
// Invariants:
//   (1) at most two reads are under way: the first one into the place, the second one, at most one,
//       into scratch;
//   (2) the place is written by one of them at a time. It is the second one's only after the first
//       was stopped: then nothing of the first is placed any more;
//   (3) once Result() was OK, nothing writes the place;
//   (4) an answer that is wrong, late or missing costs its own read only.
class HedgedRead : public std::enable_shared_from_this<HedgedRead> {
 public:
  // Where one read puts its bytes, and what ends it early. `keep` holds `place`.
  struct Into {
    MutableByteSpan place;
    std::shared_ptr<void> keep;  // shared: a call may outlive who waits for it
    std::shared_ptr<CallStop> stop;
  };

  // The digest of what `place` was filled with; whether it is right is not its matter.
  using Source = std::function<Task<absl::StatusOr<Digest128>>(Into)>;

  struct Wanted {
    MutableByteSpan place;
    std::shared_ptr<void> keep;  // shared: likewise
    Digest128 digest;
    Source first;  // must place nothing more once it is stopped, where there is a `second`
    // A source that may be read as well, asked for once the read is late; empty: none now. Not
    // set: never.
    std::function<Source()> second;
  };

  struct Outcome {
    bool hedged = false;
    bool won = false;  // the second one
    uint32_t stopped = 0;
    uint64_t wasted_bytes = 0;
    absl::Status second;  // how it ended; Cancelled when it was stopped
  };

  // Null `policy`: this read is neither hedged nor counted.
  HedgedRead(Loop* loop, HedgePolicy* policy, Wanted wanted);

  // OK once the right bytes are in their place. Otherwise the error of the first source, when no
  // read is left; DataLoss naming both digests for wrong bytes. Called once.
  Task<absl::Status> Result();

  // Nothing is under way any more. What was stopped ends when its source says so, or at its
  // deadline: until then that source has this read to do.
  Task<void> Ended();

  // Complete after Ended().
  const Outcome& outcome() const { return outcome_; }

 private:
  // One of the two.
  struct Read {
    bool running = false;
    absl::Status status;
    std::shared_ptr<CallStop> stop = std::make_shared<CallStop>();
  };

  TimePoint FirstLook() const;
  bool TryHedge();
  void Begin(Read* read);
  static Task<void> RunFirst(std::shared_ptr<HedgedRead> self);
  static Task<void> RunSecond(std::shared_ptr<HedgedRead> self, Source source);
  void End(Read* read, absl::Status status);
  absl::Status Check(const Digest128& found) const;
  void SettleBy(Read* winner);
  void StopLoser(Read* loser);

  Loop* const loop_;
  HedgePolicy* const policy_;
  const Wanted wanted_;
  TimePoint began_{};
  Read first_;
  Read second_;
  bool settled_ = false;  // the result is known
  absl::Status result_;
  Outcome outcome_;
  WaitQueue changed_;
};

}  // namespace gemel
