// SPDX-License-Identifier: Apache-2.0
#include "server/fetch.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/errors.h"
#include "common/fields.h"
#include "common/points.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

constexpr uint64_t kSourcesAtOnceMin = 2;  // that may have reads under way, where there are several

// Errors that say nothing about the chunk: the same source may be asked again.
bool IsTransient(const absl::Status& status) {
  return Control::IsUnknown(status) || status.code() == absl::StatusCode::kResourceExhausted ||
         status.code() == absl::StatusCode::kCancelled;
}

}  // namespace

Fetches::Fetches(const ServerSeams& seams, const Parts& parts, uint64_t repair_bytes_per_second)
    : seams_(seams), parts_(parts), budget_(seams.loop, repair_bytes_per_second) {
  GEMEL_CHECK(parts.control != nullptr && parts.objects != nullptr);
  GEMEL_CHECK(parts.peers != nullptr && parts.receipts != nullptr && parts.tier != nullptr);
  GEMEL_CHECK(parts.admission != nullptr);
}

// A read is a transfer of one chunk, of a fetch of which `left` chunks are missing: who needs least
// is first. Returns when it may come.
Task<uint64_t> Fetches::AwaitTurn(TransferClass of, uint32_t left) {
  const auto given = std::make_shared<WaitQueue>(seams_.loop);
  const uint64_t turn =
      parts_.admission->Begin(of, left, [given](uint32_t /*credit*/) { given->NotifyAll(); });
  parts_.admission->Want(turn, 1, seams_.loop->Now());
  if (parts_.admission->credit(turn) == 0) {
    Sometimes(Situation::kCreditWaited);
    seams_.metrics
        ->Counter("gemel_read_waits_total",
                  "Reads that waited because as much was on its way here as may be.")
        .Add(1);
  }
  while (parts_.admission->credit(turn) == 0 && !gate_->closed()) {
    co_await given->WaitUntil(Add(seams_.loop->Now(), kCreditLook));
    parts_.admission->Give(seams_.loop->Now());
  }
  co_return turn;
}

void Fetches::EndTurn(uint64_t turn, bool arrived) {
  const TimePoint now = seams_.loop->Now();
  if (arrived && parts_.admission->credit(turn) > 0) {
    parts_.admission->Arrived(turn, now);
  }
  parts_.admission->End(turn, now);
}

std::shared_ptr<ShardFetch> Fetches::Get(const WantedShard& wanted) {
  std::weak_ptr<ShardFetch>& slot = fetches_[{wanted.shard, wanted.root}];
  std::shared_ptr<ShardFetch> fetch = slot.lock();
  if (fetch == nullptr) {
    fetch = std::make_shared<ShardFetch>(this, wanted);
    slot = fetch;
  }
  return fetch;
}

// Servers that nobody has read from for long are forgotten.
SourcePace* Fetches::PaceOf(const ServerId& server) {
  const TimePoint now = seams_.loop->Now();
  if (paces_.size() > kSourcePacesMax && !paces_.contains(server)) {
    std::erase_if(paces_, [now](const auto& one) { return one.second.IsIdleSince(now); });
  }
  return &paces_[server];
}

void Fetches::Count(const HedgedRead::Outcome& outcome) {
  if (!outcome.hedged) {
    return;
  }
  const auto add = [this](const char* name, const char* help, uint64_t amount) {
    seams_.metrics->Counter(name, help).Add(static_cast<int64_t>(amount));
  };
  add("gemel_reads_hedged_total", "Reads that were late and were read again from a second source.",
      1);
  add("gemel_hedges_won_total", "Second reads that brought the right bytes first.",
      outcome.won ? 1 : 0);
  add("gemel_reads_cancelled_total", "Reads that were ended because the other one had won.",
      outcome.stopped);
  add("gemel_hedge_wasted_bytes_total", "Bytes of reads that came although the other one had won.",
      outcome.wasted_bytes);
}

ShardFetch::ShardFetch(Fetches* fetches, WantedShard wanted)
    : fetches_(fetches), wanted_(std::move(wanted)), changed_(fetches->seams_.loop) {
  GEMEL_CHECK_GT(wanted_.bytes, 0U);
}

ShardFetch::~ShardFetch() { fetches_->fetches_.erase({wanted_.shard, wanted_.root}); }

bool ShardFetch::IsThisServer(const PeerMember& member) const {
  return member.server == fetches_->parts_.control->server();
}

void ShardFetch::SetSources(const std::vector<PeerMember>& sources) {
  const auto own = [this](const PeerMember& member) { return IsThisServer(member); };
  for (const PeerMember& member : sources) {
    if (!own(member)) {
      AddSource(member);
    }
  }
  const bool named = std::any_of(sources.begin(), sources.end(), own);
  if (named || sources.empty()) {
    AddOwnDisk();
  }
}

// False when the shard is not there, or it was a source already.
bool ShardFetch::AddOwnDisk() {
  PeerMember self;
  self.server = fetches_->parts_.control->server();
  self.incarnation = fetches_->parts_.control->incarnation();
  self.name = "this server's disk";
  if (sources_.contains(self.server) ||
      fetches_->parts_.tier->Find(wanted_.shard, wanted_.root) == nullptr) {
    return false;
  }
  AddSource(self);
  return true;
}

void ShardFetch::AddSource(const PeerMember& member) {
  Source& source = sources_[member.server];
  if (!(source.member == member)) {
    source.member = member;
    source.failures = 0;
  }
}

Task<absl::Status> ShardFetch::Ensure(uint32_t first, uint32_t count, Pace pace) {
  GEMEL_CHECK(fetches_->gate_ != nullptr);
  const auto self = shared_from_this();
  const Gate::Pass pass = fetches_->gate_->Enter();
  if (!pass) {
    co_return error::Unavailable("this server is stopping");
  }
  waiting_now_ += pace == Pace::kNow ? 1 : 0;
  const absl::Status ensured = co_await EnsureAll(first, count);
  GEMEL_CHECK(pace != Pace::kNow || waiting_now_ > 0) << wanted_.shard.ToString();
  waiting_now_ -= pace == Pace::kNow ? 1 : 0;
  co_return ensured;
}

// Returns when the budget gives a chunk, somebody waits for it now, or the object was forgotten.
Task<void> ShardFetch::AwaitBudget(std::shared_ptr<Object> object) {
  while (waiting_now_ == 0 && object_ == object && !fetches_->gate_->closed()) {
    const Duration wait = fetches_->budget_.Take(kChunkBytes);
    if (wait == Duration::zero()) {
      co_return;
    }
    co_await fetches_->seams_.loop->Sleep(std::min(wait, kRepairPauseMax));
  }
}

Task<absl::Status> ShardFetch::EnsureAll(uint32_t first, uint32_t count) {
  GEMEL_CO_RETURN_IF_ERROR(co_await Prepare());
  const std::shared_ptr<Object> object = object_;
  GEMEL_CHECK(object != nullptr);
  GEMEL_CHECK(first <= object->chunks() && count <= object->chunks() - first) << first;
  GEMEL_CO_RETURN_IF_ERROR(Want(first, count));
  StartLanes();
  while (true) {
    if (object_ != object) {
      co_return error::Unavailable("{} is fetched anew: ask again", wanted_.shard.ToString());
    }
    GEMEL_CO_ASSIGN_OR_RETURN(const bool here, AllHere(first, count));
    if (here) {
      co_return absl::OkStatus();
    }
    co_await changed_.WaitUntil(kTimeNever);
  }
}

absl::StatusOr<bool> ShardFetch::AllHere(uint32_t first, uint32_t count) const {
  bool all = true;
  for (uint32_t chunk = first; chunk < first + count; ++chunk) {
    if (object_->present(chunk)) {
      continue;
    }
    const auto work = work_.find(chunk);
    if (work == work_.end()) {
      return error::Unavailable("chunk {} of {} is asked for anew", chunk,
                                wanted_.shard.ToString());
    }
    GEMEL_RETURN_IF_ERROR(work->second.error);
    all = false;
  }
  return all;
}

// Makes work of what is missing; what failed before gets another chance.
absl::Status ShardFetch::Want(uint32_t first, uint32_t count) {
  if (object_->state() == ObjectState::kSealed) {
    return absl::OkStatus();
  }
  for (auto& [server, source] : sources_) {
    source.failures = source.lanes == 0 ? 0 : source.failures;
  }
  for (uint32_t chunk = first; chunk < first + count; ++chunk) {
    if (object_->present(chunk)) {
      continue;
    }
    GEMEL_RETURN_IF_ERROR(object_->TakeFor(chunk));
    const auto work = work_.find(chunk);
    if (work == work_.end() || !work->second.error.ok()) {
      work_[chunk] = ChunkWork();
    }
  }
  GiveUpUnreadable();
  return absl::OkStatus();
}

Task<absl::Status> ShardFetch::Prepare() {
  while (preparing_) {
    co_await changed_.WaitUntil(kTimeNever);
  }
  if (object_ != nullptr) {
    co_return absl::OkStatus();
  }
  preparing_ = true;
  absl::Status made = co_await MakeObject();
  preparing_ = false;
  changed_.NotifyAll();
  co_return made;
}

Task<absl::Status> ShardFetch::MakeObject() {
  GEMEL_CHECK(preparing_ && object_ == nullptr && work_.empty());
  absl::StatusOr<std::shared_ptr<Object>> sealed =
      fetches_->parts_.objects->FindSealed(wanted_.shard, wanted_.root);
  if (sealed.ok()) {
    if ((*sealed)->bytes() != wanted_.bytes) {
      co_return error::DataLoss("{} has {} bytes here where {} belong", wanted_.shard.ToString(),
                                (*sealed)->bytes(), wanted_.bytes);
    }
    object_ = *std::move(sealed);
    co_return absl::OkStatus();
  }
  Object::Shape shape;
  shape.shard = wanted_.shard;
  shape.token = wanted_.token;
  shape.bytes = wanted_.bytes;
  shape.layout_bytes = wanted_.layout_bytes;
  std::shared_ptr<Object> object =
      fetches_->parts_.objects->NewPartial(std::move(shape), wanted_.root);
  GEMEL_CO_RETURN_IF_ERROR(co_await AskDigests(object));
  object_ = std::move(object);
  co_return absl::OkStatus();
}

Task<absl::Status> ShardFetch::AskDigests(std::shared_ptr<Object> object) {
  std::string reasons;
  bool loss = false;
  RetryDelay delay;
  for (uint32_t i = 0; i < kDescribeTriesMax; ++i) {
    bool again = false;
    reasons.clear();
    const auto sources = sources_;
    for (const auto& [server, source] : sources) {
      const absl::Status described = co_await DescribeAt(source.member, object);
      if (described.ok()) {
        co_return absl::OkStatus();
      }
      again = again || IsTransient(described);
      loss = loss || described.code() == absl::StatusCode::kDataLoss;
      reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", source.member.ToString(),
                             MessageOf(described));
    }
    if (!again) {
      break;
    }
    co_await fetches_->seams_.loop->Sleep(delay.Next());
  }
  if (AddOwnDisk()) {
    const absl::Status described = co_await DescribeOnDisk(object);
    if (described.ok()) {
      co_return described;
    }
    loss = loss || described.code() == absl::StatusCode::kDataLoss;
    reasons += fmt::format("; this server's disk: {}", MessageOf(described));
  }
  const absl::StatusCode code = loss ? absl::StatusCode::kDataLoss : absl::StatusCode::kUnavailable;
  co_return MakeStatus(code,
                       fmt::format("no source has the digests of {}: {}", wanted_.shard.ToString(),
                                   reasons.empty() ? "no holder is known" : reasons));
}

Task<absl::Status> ShardFetch::DescribeOnDisk(std::shared_ptr<Object> object) {
  Tier* const tier = fetches_->parts_.tier;
  const PersistedShard* const there = tier->Find(wanted_.shard, wanted_.root);
  DescribeReply described;
  described.bytes = there == nullptr ? 0 : there->bytes;
  GEMEL_CO_ASSIGN_OR_RETURN(const Tier::Digests digests,
                            co_await tier->ReadDigests(wanted_.shard, wanted_.root));
  described.digests = *digests;
  co_return CheckDescription(std::move(described), object.get());
}

Task<absl::Status> ShardFetch::DescribeAt(PeerMember member, std::shared_ptr<Object> object) {
  if (IsThisServer(member)) {
    co_return co_await DescribeOnDisk(std::move(object));
  }
  const TimePoint deadline = Add(fetches_->seams_.loop->Now(), kReadDeadline);
  GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Session> session,
                            co_await fetches_->parts_.peers->SessionTo(member, deadline));
  Describe describe;
  describe.shard = wanted_.shard;
  describe.root = wanted_.root;
  Request request;
  request.type = FrameType::kDescribe;
  request.body = EncodeMessage(describe);
  absl::StatusOr<Reply> reply =
      co_await session->Call(std::move(request), MutableByteSpan(), deadline);
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  GEMEL_CO_RETURN_IF_ERROR(reply->status);
  GEMEL_CO_ASSIGN_OR_RETURN(DescribeReply described, DecodeMessage<DescribeReply>(reply->body));
  co_return CheckDescription(std::move(described), object.get());
}

absl::Status ShardFetch::CheckDescription(DescribeReply described, Object* object) const {
  if (described.bytes != wanted_.bytes || described.digests.size() != object->chunks()) {
    return error::DataLoss("{} has {} bytes and {} digests there where {} and {} belong",
                           wanted_.shard.ToString(), described.bytes, described.digests.size(),
                           wanted_.bytes, object->chunks());
  }
  const Digest128 root = RootOf(wanted_.shard, described.digests, wanted_.bytes);
  if (root != wanted_.root) {
    return error::DataLoss("the digests of {} give root {} where {} belongs",
                           wanted_.shard.ToString(), ToHex(root), ToHex(wanted_.root));
  }
  object->ExpectDigests(std::move(described.digests));
  return absl::OkStatus();
}

bool ShardFetch::MayRead(const Source& source, const ChunkWork& work) const {
  return source.failures < kReadTriesMax && !work.failed.contains(source.member.server);
}

uint32_t ShardFetch::OpenFor(const Source& source) const {
  uint32_t open = 0;
  for (const auto& [chunk, work] : work_) {
    open += !work.reading && work.error.ok() && MayRead(source, work) ? 1 : 0;
  }
  return open;
}

// Of several sources none reads more than half of what may come: what it has asked for it keeps
// until it comes, and one that is slow would leave nothing to the others.
uint64_t ShardFetch::WindowOf(const Source& source) const {
  if (OnProbation(source)) {
    return 1;
  }
  const uint64_t incoming = fetches_->parts_.admission->slices_max();
  return sources_.size() == 1 ? kReadWindow
                              : std::clamp<uint64_t>(incoming / kSourcesAtOnceMin, 1, kReadWindow);
}

// Every source that has work gets its share of lanes, so that few chunks come from all holders too.
void ShardFetch::StartLanes() {
  std::map<ServerId, uint32_t> open;
  uint32_t most = 0;
  for (const auto& [server, source] : sources_) {
    const uint32_t count = OpenFor(source);
    if (count > 0) {
      open[server] = count;
      most = std::max(most, count);
    }
  }
  for (const auto& [server, count] : open) {
    Source& source = sources_.at(server);
    const uint64_t share = Buggify(BuggifySite::kReadLaneOne) ? 1 : DivideUp(most, open.size());
    while (source.lanes < std::min<uint64_t>({WindowOf(source), share, count})) {
      source.lanes += 1;
      fetches_->seams_.loop->Spawn(RunLane(shared_from_this(), server));
    }
  }
}

bool ShardFetch::TakeWork(const Source& source, uint32_t* chunk) {
  for (auto& [index, work] : work_) {
    if (!work.reading && work.error.ok() && MayRead(source, work)) {
      work.reading = true;
      *chunk = index;
      return true;
    }
  }
  return false;
}

// Lanes of all sources pull from one queue: a fast source reads more.
Task<void> ShardFetch::RunLane(std::shared_ptr<ShardFetch> self, ServerId server) {
  const Gate::Pass pass = self->fetches_->gate_->Enter();
  Source& source = self->sources_.at(server);
  RetryDelay delay;
  uint32_t chunk = 0;
  bool forgotten = false;
  while (pass && !forgotten && (source.lanes == 1 || !self->OnProbation(source)) &&
         self->TakeWork(source, &chunk)) {
    const std::shared_ptr<Object> object = self->object_;
    co_await self->AwaitBudget(object);
    const absl::Status read = co_await self->ReadInTurn(&source, object, chunk);
    forgotten = self->object_ != object;
    if (read.ok()) {
      delay.Reset();
    } else if (!forgotten && IsTransient(read)) {
      co_await self->fetches_->seams_.loop->Sleep(delay.Next());
    }
  }
  GEMEL_CHECK_GT(source.lanes, 0U) << source.member.ToString();
  source.lanes -= 1;
  if (forgotten) {
    self->StartLanes();  // it counted as one of the new object's lanes and read none of it
  }
}

// What comes from the disk is on no path to here.
Task<absl::Status> ShardFetch::ReadInTurn(Source* source, std::shared_ptr<Object> object,
                                          uint32_t chunk) {
  if (IsThisServer(source->member)) {
    co_return co_await ReadChunk(source, std::move(object), chunk);
  }
  const TransferClass of = waiting_now_ > 0 ? TransferClass::kRestore : TransferClass::kRepair;
  const auto left = static_cast<uint32_t>(std::max<size_t>(1, work_.size()));
  const uint64_t turn = co_await fetches_->AwaitTurn(of, left);
  const absl::Status read = co_await ReadChunk(source, std::move(object), chunk);
  fetches_->EndTurn(turn, read.ok());
  co_return read;
}

// `source` is one of sources_, which stay.
Task<absl::Status> ShardFetch::ReadChunk(Source* source, std::shared_ptr<Object> object,
                                         uint32_t chunk) {
  if (object_ != object) {
    co_return error::Unavailable("{} is fetched anew", wanted_.shard.ToString());
  }
  const auto second = std::make_shared<ServerId>();
  const TimePoint now = fetches_->seams_.loop->Now();
  const std::shared_ptr<HedgedRead> read = NewRead({source->member, object, chunk, now}, second);
  const ServerId first = source->member.server;
  const absl::Status result = co_await read->Result();
  if (object_ == object && result.ok()) {
    Arrived(read->outcome().won ? *second : first, chunk);
  } else if (object_ == object) {
    NoteSecond(*second, chunk, read->outcome());
    Failed(source, chunk, result);
  }
  co_await read->Ended();
  if (object_ == object && result.ok()) {
    NoteSecond(*second, chunk, read->outcome());
  }
  fetches_->Count(read->outcome());
  co_return result;
}

// Shared: `second` is written when a second source was found and read when that has ended.
std::shared_ptr<HedgedRead> ShardFetch::NewRead(const Reading& first,
                                                std::shared_ptr<ServerId> second) {
  HedgedRead::Wanted wanted;
  wanted.place = first.object->Chunk(first.chunk);
  wanted.keep = first.object;
  wanted.digest = first.object->digests()[first.chunk];
  wanted.first = SourceOf(first);
  // A read of the disk cannot be stopped: it could not be read again into the same place.
  const bool hedged = waiting_now_ > 0 && !IsThisServer(first.member);
  if (hedged) {
    wanted.second = [self = shared_from_this(), first, second = std::move(second)] {
      return self->SecondFor(first, second.get());
    };
  }
  return std::make_shared<HedgedRead>(
      fetches_->seams_.loop, hedged ? &fetches_->restore_reads_ : nullptr, std::move(wanted));
}

HedgedRead::Source ShardFetch::SourceOf(const Reading& reading) {
  return [self = shared_from_this(), reading](HedgedRead::Into into) {
    return self->ReadFrom(reading, std::move(into));
  };
}

// The source that would have it first, if there is one beside the first that may, is not slow, and
// keeps nobody waiting as long as the first does: otherwise the reads of who does well would be
// hedged to who is stuck.
HedgedRead::Source ShardFetch::SecondFor(const Reading& first, ServerId* second) {
  const auto work = work_.find(first.chunk);
  if (waiting_now_ == 0 || object_ != first.object || work == work_.end()) {
    return nullptr;
  }
  const TimePoint now = fetches_->seams_.loop->Now();
  const Source* best = nullptr;
  for (const auto& [server, source] : sources_) {
    const SourcePace& pace = *fetches_->PaceOf(server);
    const Duration oldest = pace.OldestAge(now);
    const bool stuck = oldest > Duration::zero() && oldest >= now - first.began;
    if (server == first.member.server || !MayRead(source, work->second) || stuck ||
        pace.OnProbation(now)) {
      continue;
    }
    if (best == nullptr || pace.Expected() < fetches_->PaceOf(best->member.server)->Expected()) {
      best = &source;
    }
  }
  if (best == nullptr) {
    return nullptr;
  }
  GEMEL_CHECK(best->member.server != first.member.server) << first.member.ToString();
  *second = best->member.server;
  return SourceOf({best->member, first.object, first.chunk, now});
}

Task<absl::StatusOr<Digest128>> ShardFetch::ReadFrom(Reading from, HedgedRead::Into into) {
  Loop* const loop = fetches_->seams_.loop;
  const TimePoint deadline = Add(loop->Now(), kReadDeadline);
  const ServerId server = from.member.server;
  const std::shared_ptr<CallStop> stop = into.stop;
  SourcePace::Ticket ticket;
  absl::StatusOr<Digest128> read;
  if (IsThisServer(from.member)) {
    ticket = fetches_->PaceOf(server)->Begin(loop->Now());
    const MutableByteSpan place = into.place;
    const absl::Status done = co_await fetches_->parts_.tier->ReadChunk(
        wanted_.shard, wanted_.root, from.chunk, place, into.keep);
    read = done.ok() ? absl::StatusOr<Digest128>(Xxh3_128(place)) : done;
  } else {
    GEMEL_CO_ASSIGN_OR_RETURN(std::shared_ptr<Lane> lane,
                              co_await fetches_->parts_.peers->LaneTo(from.member, deadline));
    ticket = fetches_->PaceOf(server)->Begin(loop->Now());
    read = co_await ReadOn(std::move(lane), from.chunk, std::move(into), deadline);
  }
  EndPace(server, ticket, read.status(), stop->stopped());
  co_return read;
}

Task<absl::StatusOr<Digest128>> ShardFetch::ReadOn(std::shared_ptr<Lane> lane, uint32_t chunk,
                                                   HedgedRead::Into into, TimePoint deadline) {
  Read read;
  read.shard = wanted_.shard;
  read.root = wanted_.root;
  read.chunk = chunk;
  Request request;
  request.type = FrameType::kRead;
  request.body = EncodeMessage(read);
  request.stop = into.stop;
  absl::StatusOr<Reply> reply = co_await CallOn(lane, std::move(request), into.place, deadline);
  GEMEL_CO_RETURN_IF_ERROR(reply.status());
  GEMEL_CO_RETURN_IF_ERROR(reply->status);
  if (reply->payload.size() != into.place.size()) {
    co_return error::DataLoss("{} bytes came where {} belong", reply->payload.size(),
                              into.place.size());
  }
  co_return DigestOf(reply->payload, reply->landed);
}

void ShardFetch::EndPace(const ServerId& server, const SourcePace::Ticket& ticket,
                         const absl::Status& read, bool stopped) {
  const TimePoint now = fetches_->seams_.loop->Now();
  SourcePace* const pace = fetches_->PaceOf(server);
  const bool was_on_probation = pace->OnProbation(now);
  if (stopped || read.code() == absl::StatusCode::kDeadlineExceeded) {
    pace->Stopped(ticket, now, FastestBut(server));
  } else if (read.ok()) {
    pace->Arrived(ticket, now, FastestBut(server));
  } else {
    pace->Failed(ticket, now);
  }
  if (was_on_probation && !pace->OnProbation(now)) {
    StartLanes();
  }
}

Duration ShardFetch::FastestBut(const ServerId& server) const {
  Duration fastest{};
  for (const auto& [other, source] : sources_) {
    const Duration slice = fetches_->PaceOf(other)->slice_time();
    const bool known = other != server && slice > Duration::zero();
    fastest = known && (fastest == Duration::zero() || slice < fastest) ? slice : fastest;
  }
  return fastest;
}

// Never the only one that may be read.
bool ShardFetch::OnProbation(const Source& source) const {
  const ServerId server = source.member.server;
  return fetches_->PaceOf(server)->OnProbation(fetches_->seams_.loop->Now()) &&
         std::any_of(sources_.begin(), sources_.end(), [&](const auto& one) {
           return one.first != server && one.second.failures < kReadTriesMax;
         });
}

void ShardFetch::Arrived(const ServerId& from, uint32_t chunk) {
  GEMEL_CHECK(!from.IsZero()) << "chunk " << chunk;
  Source& source = sources_.at(from);
  source.failures = 0;
  fetched_anything_ = true;
  const auto work = work_.find(chunk);
  GEMEL_CHECK(work != work_.end() && work->second.reading) << "chunk " << chunk;
  GEMEL_CHECK(object_ != nullptr && object_->state() == ObjectState::kPartial);
  Reach(CrashPoint::kChunkFetched);
  work_.erase(work);
  const Digest128 digest = object_->digests()[chunk];
  object_->SetPresent(chunk, digest);
  if (!IsThisServer(source.member)) {
    fetches_->seams_.metrics
        ->Counter("gemel_fetched_bytes_total", "Bytes that were brought here from other servers.")
        .Add(static_cast<int64_t>(object_->Chunk(chunk).size()));
  }
  SealWhenWhole();
  changed_.NotifyAll();
}

void ShardFetch::Failed(Source* source, uint32_t chunk, const absl::Status& why) {
  ChunkWork& work = work_.at(chunk);
  GEMEL_CHECK(work.reading) << "chunk " << chunk;
  work.reading = false;
  NoteFailure(source, chunk, why);
  GiveUpUnreadable();
  StartLanes();
  changed_.NotifyAll();
}

// The chunk may be here meanwhile.
void ShardFetch::NoteFailure(Source* source, uint32_t chunk, const absl::Status& why) {
  const auto work = work_.find(chunk);
  Sometimes(Situation::kSourceFailed);
  source->error = why;
  if (IsTransient(why)) {
    source->failures += 1;
  } else if (work != work_.end()) {
    work->second.failed.insert(source->member.server);
    work->second.reasons += fmt::format("{}{}: {}", work->second.reasons.empty() ? "" : "; ",
                                        source->member.ToString(), MessageOf(why));
  }
  if (why.code() != absl::StatusCode::kDataLoss) {
    return;
  }
  if (work != work_.end()) {
    work->second.loss = true;
  }
  fetches_->seams_.metrics
      ->Counter("gemel_chunks_corrupt_total", "Chunks that failed their digest.")
      .Add(1);
  fetches_->seams_.events->Emit(
      Severity::kWarning, "chunk_corrupt",
      fmt::format("chunk {} of {} from {}: {}", chunk, wanted_.shard.ToString(),
                  source->member.ToString(), MessageOf(why)));
}

void ShardFetch::NoteSecond(const ServerId& second, uint32_t chunk,
                            const HedgedRead::Outcome& outcome) {
  const bool failed = outcome.hedged && !outcome.second.ok() &&
                      outcome.second.code() != absl::StatusCode::kCancelled;
  if (failed) {
    NoteFailure(&sources_.at(second), chunk, outcome.second);
  }
}

bool ShardFetch::IsReadable(const ChunkWork& work) const {
  return work.reading || std::any_of(sources_.begin(), sources_.end(),
                                     [&](const auto& one) { return MayRead(one.second, work); });
}

// Chunks that no source may give any more get their error; this server's disk is the last one.
void ShardFetch::GiveUpUnreadable() {
  for (auto& [chunk, work] : work_) {
    const bool readable = IsReadable(work) || (AddOwnDisk() && IsReadable(work));
    if (!readable && work.error.ok()) {
      work.error = NoSource(chunk, work);
    }
  }
}

absl::Status ShardFetch::NoSource(uint32_t chunk, const ChunkWork& work) const {
  std::string reasons = work.reasons;
  for (const auto& [server, source] : sources_) {
    if (!work.failed.contains(server)) {
      reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", source.member.ToString(),
                             MessageOf(source.error));
    }
  }
  const absl::StatusCode code =
      work.loss ? absl::StatusCode::kDataLoss : absl::StatusCode::kUnavailable;
  return MakeStatus(
      code, fmt::format("no source gives chunk {} of {}: {}", chunk, wanted_.shard.ToString(),
                        reasons.empty() ? "no holder is known" : reasons));
}

void ShardFetch::SealWhenWhole() {
  if (object_->state() != ObjectState::kPartial || !object_->complete()) {
    return;
  }
  const absl::Status adopted = fetches_->parts_.objects->Adopt(object_);
  if (adopted.ok()) {
    Reach(CrashPoint::kShardFetched);
    fetches_->parts_.receipts->Add(*object_);
  } else {
    fetches_->seams_.events->Emit(Severity::kWarning, "copy_not_kept", ToText(adopted));
  }
}

void ShardFetch::Forget(const std::shared_ptr<Object>& corrupt) {
  GEMEL_CHECK(corrupt != nullptr);
  if (object_ == corrupt) {
    object_ = nullptr;
    forgotten_ += 1;
    work_.clear();
    changed_.NotifyAll();
  }
}

}  // namespace gemel
