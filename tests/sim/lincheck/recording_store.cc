// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/lincheck/recording_store.h"

#include "common/bytes.h"
#include "common/xxh3.h"

namespace gemel::sim {
namespace {

Digest128 DigestOf(const std::string& value) {
  return Xxh3_128(std::as_bytes(std::span(value.data(), value.size())));
}

StoreCall CallOf(const Txn& txn) {
  StoreCall call;
  call.kind = StoreCall::Kind::kCommit;
  call.compares = txn.compares;
  call.deletes = txn.deletes;
  for (const auto& [key, value] : txn.puts) {
    call.puts.emplace_back(key, DigestOf(value));
  }
  return call;
}

}  // namespace

Task<absl::StatusOr<std::optional<Versioned>>> RecordingStore::Get(std::string key) {
  StoreCall call;
  call.key = key;
  const OperationIndex index = recorder_->Invoke(process_, call);
  const absl::StatusOr<std::optional<Versioned>> answer = co_await inner_->Get(key);
  if (answer.ok() && answer->has_value()) {
    call.found[key] = {.digest = DigestOf((*answer)->value), .version = (*answer)->version};
  }
  recorder_->Return(index, answer.ok() ? Outcome::kTold : Outcome::kUnknown, std::move(call));
  co_return answer;
}

Task<absl::StatusOr<std::vector<KeyValue>>> RecordingStore::List(std::string prefix) {
  StoreCall call;
  call.kind = StoreCall::Kind::kList;
  call.key = prefix;
  const OperationIndex index = recorder_->Invoke(process_, call);
  const absl::StatusOr<std::vector<KeyValue>> answer = co_await inner_->List(prefix);
  if (answer.ok()) {
    for (const auto& [key, value] : *answer) {
      call.found[key] = {.digest = DigestOf(value.value), .version = value.version};
    }
  }
  recorder_->Return(index, answer.ok() ? Outcome::kTold : Outcome::kUnknown, std::move(call));
  co_return answer;
}

Task<absl::StatusOr<CommitResult>> RecordingStore::Commit(Txn txn) {
  StoreCall call = CallOf(txn);
  const OperationIndex index = recorder_->Invoke(process_, call);
  const absl::StatusOr<CommitResult> answer = co_await inner_->Commit(std::move(txn));
  Outcome outcome = Outcome::kRefused;
  if (answer.ok()) {
    outcome = Outcome::kTold;
    call.result = *answer;
  } else if (answer.status().code() == absl::StatusCode::kUnknown) {
    outcome = Outcome::kUnknown;
  }
  recorder_->Return(index, outcome, std::move(call));
  co_return answer;
}

}  // namespace gemel::sim
