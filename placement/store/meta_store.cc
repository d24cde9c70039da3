// SPDX-License-Identifier: Apache-2.0
#include "placement/store/meta_store.h"

#include <set>
#include <string_view>

#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel {
namespace {

absl::Status CheckKey(const std::string& key) {
  if (key.empty() || key.size() > kMetaKeyBytesMax) {
    return error::InvalidArgument("a key of {} bytes; it must have 1 to {}", key.size(),
                                  kMetaKeyBytesMax);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTxn(const Txn& txn) {
  std::set<std::string_view> keys;
  size_t bytes = 0;
  for (const Txn::Compare& compare : txn.compares) {
    GEMEL_RETURN_IF_ERROR(CheckKey(compare.key));
    if (compare.version == 0) {
      return error::InvalidArgument("key '{}' is compared with version 0, which no key has",
                                    compare.key);
    }
    bytes += compare.key.size();
  }
  for (const auto& [key, value] : txn.puts) {
    GEMEL_RETURN_IF_ERROR(CheckKey(key));
    if (!keys.insert(key).second) {
      return error::InvalidArgument("key '{}' is put twice in one transaction", key);
    }
    bytes += key.size() + value.size();
  }
  for (const std::string& key : txn.deletes) {
    GEMEL_RETURN_IF_ERROR(CheckKey(key));
    if (!keys.insert(key).second) {
      return error::InvalidArgument("key '{}' is put or deleted twice in one transaction", key);
    }
    bytes += key.size();
  }
  if (keys.size() > kMetaTxnOpsMax || txn.compares.size() > kMetaTxnOpsMax) {
    return error::InvalidArgument(
        "a transaction of {} compares and {} puts and deletes; at most {}", txn.compares.size(),
        keys.size(), kMetaTxnOpsMax);
  }
  if (bytes > kMetaTxnBytesMax) {
    return error::InvalidArgument("a transaction of {} bytes; at most {}", bytes, kMetaTxnBytesMax);
  }
  return absl::OkStatus();
}

}  // namespace gemel
