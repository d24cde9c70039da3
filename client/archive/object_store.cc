// SPDX-License-Identifier: Apache-2.0
#include "client/archive/object_store.h"

#include "common/check.h"
#include "common/errors.h"
#include "common/status_macros.h"

namespace gemel::archive {

absl::Status PutObject(ObjectStore* store, const std::string& key, std::string_view content) {
  GEMEL_CHECK(store != nullptr);
  GEMEL_ASSIGN_OR_RETURN(std::unique_ptr<ObjectWriter> writer, store->Create(key, content.size()));
  GEMEL_RETURN_IF_ERROR(writer->Write(AsBytes(content)));
  return writer->Finish();
}

absl::StatusOr<std::string> GetObject(ObjectStore* store, const std::string& key,
                                      uint64_t bytes_max) {
  GEMEL_CHECK(store != nullptr);
  GEMEL_ASSIGN_OR_RETURN(const uint64_t bytes, store->Size(key));
  if (bytes > bytes_max) {
    return error::InvalidArgument("{} has {} bytes, at most {}: it is not a file of Gemel's",
                                  store->Where(key), bytes, bytes_max);
  }
  std::string content(bytes, '\0');
  if (bytes > 0) {
    GEMEL_RETURN_IF_ERROR(store->Read(key, 0, std::as_writable_bytes(std::span(content))));
  }
  return content;
}

}  // namespace gemel::archive
