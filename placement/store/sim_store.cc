// SPDX-License-Identifier: Apache-2.0
#include "placement/store/sim_store.h"

#include <set>

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {

absl::Status CheckTxn(const Txn& txn) {
  std::set<std::string_view> keys;
  size_t bytes = 0;
  for (const auto& [key, value] : txn.puts) {
    if (key.empty() || key.size() > kMetaKeyBytesMax) {
      return error::InvalidArgument("a key of {} bytes; it must have 1 to {}", key.size(),
                                    kMetaKeyBytesMax);
    }
    if (!keys.insert(key).second) {
      return error::InvalidArgument("key '{}' is put twice in one transaction", key);
    }
    bytes += key.size() + value.size();
  }
  for (const std::string& key : txn.deletes) {
    if (!keys.insert(key).second) {
      return error::InvalidArgument("key '{}' is put or deleted twice in one transaction", key);
    }
    bytes += key.size();
  }
  if (bytes > kMetaTxnBytesMax) {
    return error::InvalidArgument("a transaction of {} bytes; at most {}", bytes, kMetaTxnBytesMax);
  }
  return absl::OkStatus();
}

Task<void> SimStore::Delay() {
  GEMEL_CHECK_LE(state_->latency_min.count(), state_->latency_max.count());
  const auto span = static_cast<uint64_t>((state_->latency_max - state_->latency_min).count());
  const auto extra = static_cast<Duration::rep>(state_->random.Below(span + 1));
  co_await loop_->Sleep(state_->latency_min + Duration(extra));
}

absl::Status SimStore::Available() const {
  return state_->unavailable || cut_ ? error::Unavailable("{} does not answer", name()) : absl::OkStatus();
}

Task<absl::StatusOr<std::optional<Versioned>>> SimStore::Get(std::string key) {
  co_await Delay();
  GEMEL_CO_RETURN_IF_ERROR(Available());
  const auto found = state_->values.find(key);
  if (found == state_->values.end()) {
    co_return std::optional<Versioned>();
  }
  GEMEL_CHECK_LE(found->second.version, state_->version);
  co_return std::optional<Versioned>(found->second);
}

Task<absl::StatusOr<std::vector<KeyValue>>> SimStore::List(std::string prefix) {
  co_await Delay();
  GEMEL_CO_RETURN_IF_ERROR(Available());
  std::vector<KeyValue> result;
  for (auto it = state_->values.lower_bound(prefix); it != state_->values.end(); ++it) {
    if (it->first.compare(0, prefix.size(), prefix) != 0) {
      break;
    }
    result.emplace_back(it->first, it->second);
  }
  co_return result;
}

Task<absl::StatusOr<CommitResult>> SimStore::Commit(Txn txn) {
  GEMEL_CO_RETURN_IF_ERROR(CheckTxn(txn));
  co_await Delay();
  GEMEL_CO_RETURN_IF_ERROR(Available());
  if (state_->full) {
    co_return error::ResourceExhausted("{} is full: free space on its disk", name());
  }
  bool unknown = state_->random.Chance(state_->unknown_permille, 1000);
  if (state_->unknown_next > 0) {
    state_->unknown_next -= 1;
    unknown = true;
  }
  if (unknown) {
    const bool applied = state_->random.Chance(state_->unknown_applied_permille, 1000);
    if (applied) {
      Apply(txn);
    }
    co_return error::Unknown("{}: the outcome of a transaction of {} puts is not known", name(),
                             txn.puts.size());
  }
  co_return Apply(txn);
}

CommitResult SimStore::Apply(const Txn& txn) {
  for (const Txn::Compare& compare : txn.compares) {
    const auto found = state_->values.find(compare.key);
    const bool present = found != state_->values.end();
    if (present != compare.version.has_value() ||
        (present && found->second.version != *compare.version)) {
      return {};
    }
  }
  const uint64_t version = ++state_->version;
  state_->transactions += 1;
  for (const auto& [key, value] : txn.puts) {
    GEMEL_CHECK_LT(state_->values[key].version, version) << key;  // invariant (2)
    state_->values[key] = Versioned{value, version};
  }
  for (const std::string& key : txn.deletes) {
    state_->values.erase(key);
  }
  if (state_->on_applied) {
    state_->on_applied(txn);
  }
  return {.applied = true, .version = version};
}

}  // namespace gemel
