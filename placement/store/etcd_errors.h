// SPDX-License-Identifier: Apache-2.0
//
// What a failed call to etcd means: the one place that reads etcd's errors. They are known by their
// text, as etcd's own clients know them; a failure that is not known may have been applied.
//
// Thread safety: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace gemel {

enum class EtcdVerdict {
  kElsewhere,  // not applied; another member may do better, or this one later
  kRefused,    // not applied, and no member will
  kFull,       // no space: a transaction may be applied all the same
  kTooLarge,   // the message; of a request: not applied
  kCompacted,  // the revision that was to be read is gone
  kUnknown,    // a transaction may be applied, or may be later; a read may go elsewhere
};

struct EtcdFailure {
  EtcdVerdict verdict = EtcdVerdict::kUnknown;
  absl::Status status;  // as MetaStore words it
};

// `failed` is the status of a call to `who` ("etcd at 127.0.0.1:2379"), as gRPC gave it.
EtcdFailure ConvertEtcdFailure(const absl::Status& failed, std::string_view who);

// What is wrong with an etcd of that version ("3.4.23"): a sentence that names the version to go
// to; empty when nothing is known to be.
std::string EtcdVersionWarning(std::string_view version);

}  // namespace gemel
