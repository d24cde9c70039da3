// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/lincheck/random_stores.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iterator>

#include "common/check.h"

namespace gemel::sim {
namespace {

using Index = size_t;

constexpr char kKeyPrefix = 'k';

// The true store and the clients that use it. A transaction of unknown outcome may still wait in
// `late_`: it is applied at some later moment, or never.
class StoreRun {
 public:
  StoreRun(const StoreShape& shape, Random* random)
      : shape_(shape), random_(*random), clients_(shape.processes) {}

  History<StoreCall> Go();

 private:
  struct Client {
    OperationIndex operation = kNotRecorded;
    bool effected = false;
    StoreCall call;
    Outcome outcome = Outcome::kTold;
    std::map<std::string, uint64_t> seen;  // versions, of which some are old by now
  };

  std::string RandomKey() { return fmt::format("{}{}", kKeyPrefix, random_.Below(shape_.keys)); }

  void Advance(uint32_t process);
  void Invoke(uint32_t process, Client* client);
  void Effect(Client* client);
  bool Apply(const StoreCall& call, uint64_t* version);
  StoreCall RandomCommit(const Client& client);

  const StoreShape shape_;
  Random& random_;
  Recorder<StoreCall> recorder_;
  std::vector<Client> clients_;
  std::vector<StoreCall> late_;
  std::map<std::string, StoreCall::Value> values_;
  uint64_t version_ = 0;
  uint64_t next_value_ = 1;
};

StoreCall StoreRun::RandomCommit(const Client& client) {
  StoreCall call;
  call.kind = StoreCall::Kind::kCommit;
  const uint64_t keys = 1 + random_.Below(2);
  for (uint64_t i = 0; i < keys; ++i) {
    const std::string key = RandomKey();
    const bool there = std::any_of(call.puts.begin(), call.puts.end(),
                                   [&key](const auto& put) { return put.first == key; });
    if (there) {
      continue;
    }
    std::optional<uint64_t> version;
    const auto seen = client.seen.find(key);
    const auto now = values_.find(key);
    if (seen != client.seen.end() && random_.Chance(1, 3)) {
      version = seen->second;
    } else if (now != values_.end() && random_.Chance(9, 10)) {
      version = now->second.version;
    }
    call.compares.push_back({.key = key, .version = version});
    call.puts.emplace_back(key, Digest128{.low = next_value_++, .high = 1});
  }
  if (random_.Chance(1, 8)) {
    call.deletes.push_back("gone");
  }
  return call;
}

void StoreRun::Invoke(uint32_t process, Client* client) {
  client->call = StoreCall();
  client->effected = false;
  client->outcome = Outcome::kTold;
  if (random_.Chance(shape_.commit_permille, 1000)) {
    client->call = RandomCommit(*client);
  } else if (random_.Chance(1, 6)) {
    client->call.kind = StoreCall::Kind::kList;
    client->call.key.push_back(kKeyPrefix);
  } else {
    client->call.key = RandomKey();
  }
  client->operation = recorder_.Invoke(process, client->call);
}

bool StoreRun::Apply(const StoreCall& call, uint64_t* version) {
  for (const Txn::Compare& compare : call.compares) {
    const auto found = values_.find(compare.key);
    const bool present = found != values_.end();
    if (present != compare.version.has_value() ||
        (present && found->second.version != *compare.version)) {
      return false;
    }
  }
  version_ += 1 + random_.Below(3);
  for (const auto& [key, digest] : call.puts) {
    values_[key] = {.digest = digest, .version = version_};
  }
  *version = version_;
  return true;
}

void StoreRun::Effect(Client* client) {
  StoreCall& call = client->call;
  client->effected = true;
  if (call.kind != StoreCall::Kind::kCommit) {
    for (const auto& [key, value] : values_) {
      const bool wanted =
          call.kind == StoreCall::Kind::kList ? key.starts_with(call.key) : key == call.key;
      if (wanted) {
        call.found[key] = value;
        client->seen[key] = value.version;
      }
    }
    return;
  }
  if (random_.Chance(shape_.unknown_permille, 1000)) {
    client->outcome = Outcome::kUnknown;
    uint64_t version = 0;
    switch (random_.Below(3)) {
      case 0:
        Apply(call, &version);
        break;
      case 1:
        late_.push_back(call);
        break;
      default:
        break;  // it never takes effect
    }
    return;
  }
  if (random_.Chance(1, 30)) {
    client->outcome = Outcome::kRefused;
    return;
  }
  call.result.applied = Apply(call, &call.result.version);
}

void StoreRun::Advance(uint32_t process) {
  Client& client = clients_[process];
  if (client.operation == kNotRecorded) {
    Invoke(process, &client);
  } else if (!client.effected) {
    Effect(&client);
  } else {
    recorder_.Return(client.operation, client.outcome, client.call);
    client.operation = kNotRecorded;
  }
}

History<StoreCall> StoreRun::Go() {
  while (recorder_.history().size() < shape_.operations) {
    Advance(static_cast<uint32_t>(random_.Below(shape_.processes)));
    if (!late_.empty() && random_.Chance(1, 10)) {
      const auto chosen = late_.begin() + static_cast<std::ptrdiff_t>(random_.Below(late_.size()));
      uint64_t version = 0;
      Apply(*chosen, &version);
      late_.erase(chosen);
    }
  }
  return recorder_.history();
}

bool IsTold(const Operation<StoreCall>& operation, StoreCall::Kind kind) {
  return operation.outcome == Outcome::kTold && operation.call.kind == kind;
}

bool Applied(const Operation<StoreCall>& operation) {
  return IsTold(operation, StoreCall::Kind::kCommit) && operation.call.result.applied;
}

std::optional<Digest128> Puts(const StoreCall& call, const std::string& key) {
  for (const auto& [put, digest] : call.puts) {
    if (put == key) {
      return digest;
    }
  }
  return std::nullopt;
}

// Calls `change` with pairs of operations in random order until it says that it has changed them.
bool WithSomePair(History<StoreCall>* history, Random* random,
                  const std::function<bool(Index, Index)>& change) {
  const size_t count = history->size();
  const size_t first = random->Below(count);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < count; ++j) {
      const size_t a = (first + i) % count;
      if (a != j && change(a, j)) {
        return true;
      }
    }
  }
  return false;
}

// The told commit that put this version.
const Operation<StoreCall>* WriterOf(const History<StoreCall>& history, const std::string& key,
                                     uint64_t version) {
  for (const Operation<StoreCall>& operation : history) {
    if (Applied(operation) && operation.call.result.version == version &&
        Puts(operation.call, key).has_value()) {
      return &operation;
    }
  }
  return nullptr;
}

bool StaleRead(History<StoreCall>* history, Random* random) {
  return WithSomePair(history, random, [history](Index read, Index old) {
    Operation<StoreCall>& reader = (*history)[read];
    const Operation<StoreCall>& writer = (*history)[old];
    if (!IsTold(reader, StoreCall::Kind::kGet) || reader.call.found.empty() || !Applied(writer)) {
      return false;
    }
    auto& [key, value] = *reader.call.found.begin();
    const auto digest = Puts(writer.call, key);
    const Operation<StoreCall>* newer = WriterOf(*history, key, value.version);
    if (!digest.has_value() || newer == nullptr || newer->returned >= reader.invoked ||
        writer.call.result.version >= value.version) {
      return false;
    }
    value = {.digest = *digest, .version = writer.call.result.version};
    return true;
  });
}

bool FutureRead(History<StoreCall>* history, Random* random) {
  return WithSomePair(history, random, [history](Index read, Index later) {
    Operation<StoreCall>& reader = (*history)[read];
    const Operation<StoreCall>& writer = (*history)[later];
    if (!IsTold(reader, StoreCall::Kind::kGet) || !Applied(writer) ||
        writer.invoked <= reader.returned) {
      return false;
    }
    const auto digest = Puts(writer.call, reader.call.key);
    if (!digest.has_value()) {
      return false;
    }
    reader.call.found[reader.call.key] = {.digest = *digest, .version = writer.call.result.version};
    return true;
  });
}

bool SwappedReads(History<StoreCall>* history, Random* random) {
  return WithSomePair(history, random, [history](Index first, Index second) {
    Operation<StoreCall>& a = (*history)[first];
    Operation<StoreCall>& b = (*history)[second];
    const bool both = IsTold(a, StoreCall::Kind::kGet) && IsTold(b, StoreCall::Kind::kGet) &&
                      a.call.key == b.call.key && !a.call.found.empty() && !b.call.found.empty();
    if (!both || a.returned >= b.invoked || a.call.found == b.call.found) {
      return false;
    }
    std::swap(a.call.found, b.call.found);
    return true;
  });
}

bool VanishedKey(History<StoreCall>* history, Random* random) {
  return WithSomePair(history, random, [history](Index read, Index writer) {
    Operation<StoreCall>& reader = (*history)[read];
    const Operation<StoreCall>& put = (*history)[writer];
    if (!IsTold(reader, StoreCall::Kind::kGet) || !Applied(put) || put.returned >= reader.invoked ||
        !Puts(put.call, reader.call.key).has_value()) {
      return false;
    }
    reader.call.found.clear();
    return true;
  });
}

bool LostUpdate(History<StoreCall>* history, Random* random) {
  return WithSomePair(history, random, [history](Index first, Index second) {
    const Operation<StoreCall>& a = (*history)[first];
    Operation<StoreCall>& b = (*history)[second];
    if (!Applied(a) || !Applied(b)) {
      return false;
    }
    const Txn::Compare& base = a.call.compares.front();
    for (Txn::Compare& compare : b.call.compares) {
      if (compare.key == base.key && base.version.has_value() &&
          WriterOf(*history, base.key, *base.version) != nullptr) {
        compare.version = base.version;
        return true;
      }
    }
    return false;
  });
}

bool Reordered(History<StoreCall>* history, Random* random) {
  constexpr uint64_t kSpace = 4;
  for (Operation<StoreCall>& operation : *history) {
    operation.invoked *= kSpace;
    operation.returned *= operation.returned == kNeverReturned ? 1 : kSpace;
  }
  return WithSomePair(history, random, [history](Index first, Index second) {
    const Operation<StoreCall>& a = (*history)[first];
    Operation<StoreCall>& b = (*history)[second];
    const bool follows =
        Applied(a) && Applied(b) &&
        std::any_of(b.call.compares.begin(), b.call.compares.end(), [&a](const auto& compare) {
          return compare.version == a.call.result.version && Puts(a.call, compare.key).has_value();
        });
    if (!follows) {
      return false;
    }
    b.invoked = a.invoked - 2;
    b.returned = a.invoked - 1;
    return true;
  });
}

bool Twice(History<StoreCall>* history, Random* random) {
  uint64_t newest = 0;
  uint64_t last = 0;
  for (const Operation<StoreCall>& operation : *history) {
    newest = std::max(newest, operation.call.result.version);
    last = std::max(
        {last, operation.invoked, operation.returned == kNeverReturned ? 0 : operation.returned});
  }
  const size_t first = random->Below(history->size());
  for (size_t i = 0; i < history->size(); ++i) {
    Operation<StoreCall> again = (*history)[(first + i) % history->size()];
    if (Applied(again) && again.call.compares.front().version.has_value()) {
      again.invoked = last + 1;
      again.returned = last + 2;
      again.call.result.version = newest + 1000;
      history->push_back(std::move(again));
      return true;
    }
  }
  return false;
}

// Some read told the value of this transaction.
bool WasRead(const History<StoreCall>& history, const StoreCall& call) {
  for (const Operation<StoreCall>& operation : history) {
    if (operation.outcome != Outcome::kTold) {
      continue;
    }
    for (const auto& [key, value] : operation.call.found) {
      if (Puts(call, key) == value.digest) {
        return true;
      }
    }
  }
  return false;
}

bool NotApplied(History<StoreCall>* history, Random* random, Outcome was) {
  const size_t first = random->Below(history->size());
  for (size_t i = 0; i < history->size(); ++i) {
    Operation<StoreCall>& operation = (*history)[(first + i) % history->size()];
    const bool fits = operation.call.kind == StoreCall::Kind::kCommit && operation.outcome == was &&
                      (was == Outcome::kUnknown || Applied(operation));
    if (fits && WasRead(*history, operation.call)) {
      operation.outcome = Outcome::kRefused;
      operation.returned = std::min(operation.returned, operation.invoked + 1);
      return true;
    }
  }
  return false;
}

bool VersionsCrossed(History<StoreCall>* history, Random* random) {
  return WithSomePair(history, random, [history](Index first, Index second) {
    Operation<StoreCall>& a = (*history)[first];
    Operation<StoreCall>& b = (*history)[second];
    if (!Applied(a) || !Applied(b) || a.returned >= b.invoked) {
      return false;
    }
    std::swap(a.call.result.version, b.call.result.version);
    return true;
  });
}

}  // namespace

History<StoreCall> RandomStoreHistory(const StoreShape& shape, Random* random) {
  GEMEL_CHECK(shape.processes > 0 && shape.keys > 0);
  return StoreRun(shape, random).Go();
}

std::string_view NameOf(StoreMutation mutation) {
  static constexpr std::string_view kNames[] = {"stale read",
                                                "future read",
                                                "swapped reads",
                                                "vanished key",
                                                "lost update",
                                                "reordered",
                                                "applied twice",
                                                "unknown told as failed",
                                                "applied told as refused",
                                                "versions crossed"};
  static_assert(std::size(kNames) == std::size(kStoreMutations));
  return kNames[static_cast<size_t>(mutation)];
}

bool Mutate(StoreMutation mutation, History<StoreCall>* history, Random* random) {
  GEMEL_CHECK(!history->empty());
  switch (mutation) {
    case StoreMutation::kStaleRead:
      return StaleRead(history, random);
    case StoreMutation::kFutureRead:
      return FutureRead(history, random);
    case StoreMutation::kSwappedReads:
      return SwappedReads(history, random);
    case StoreMutation::kVanishedKey:
      return VanishedKey(history, random);
    case StoreMutation::kLostUpdate:
      return LostUpdate(history, random);
    case StoreMutation::kReordered:
      return Reordered(history, random);
    case StoreMutation::kTwice:
      return Twice(history, random);
    case StoreMutation::kUnknownFailed:
      return NotApplied(history, random, Outcome::kUnknown);
    case StoreMutation::kAppliedRefused:
      return NotApplied(history, random, Outcome::kTold);
    case StoreMutation::kVersionsCrossed:
      return VersionsCrossed(history, random);
  }
  return false;
}

}  // namespace gemel::sim
