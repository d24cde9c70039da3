// SPDX-License-Identifier: Apache-2.0
//
// ClientLibrary: a client of the library that acquired an epoch of job "gpt" at a FakeServer.
//
// Thread safety: one thread.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/random.h"
#include "gemel/client.h"
#include "tests/unit/client_fake_server.h"

namespace gemel {

constexpr uint64_t kShardBytes = 5 * kMiB + 12345;  // three slabs, the last chunk short

inline std::vector<std::byte> Content(size_t bytes, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> content(bytes);
  for (std::byte& byte : content) {
    byte = static_cast<std::byte>(random.Next());
  }
  return content;
}

class ClientLibrary : public ::testing::Test {
 protected:
  void SetUp() override {
    auto client = Client::Connect({.address = server_.address(), .timeout_ms = 5000});
    ASSERT_TRUE(client) << client.status().message();
    client_ = std::move(*client);
    auto epoch = client_.AcquireEpoch("gpt", DrawToken());
    ASSERT_TRUE(epoch) << epoch.status().message();
    epoch_ = *epoch;
  }

  Result<std::optional<SnapshotWriter>> Open(uint64_t bytes, const std::string& name = "7") {
    return client_.OpenSnapshot({.job = "gpt",
                                 .epoch = epoch_,
                                 .name = name,
                                 .shard_bytes = bytes,
                                 .copies = 1,
                                 .timeout_ms = 5000});
  }

  // A writer whose shard of `content` is sealed.
  SnapshotWriter Saved(std::span<const std::byte> content, const std::string& name = "7") {
    auto writer = Open(content.size(), name);
    EXPECT_TRUE(writer && writer->has_value()) << writer.status().message();
    SnapshotWriter saved = std::move(**writer);
    EXPECT_TRUE(saved.Write(0, content).ok());
    EXPECT_TRUE(saved.Seal().ok());
    return saved;
  }

  Restore Begun() {
    auto restore = client_.BeginRestore({.job = "gpt", .epoch = epoch_, .timeout_ms = 5000});
    EXPECT_TRUE(restore && restore->has_value()) << restore.status().message();
    return std::move(**restore);
  }

  FakeServer server_;
  Client client_;
  Epoch epoch_{};
};

}  // namespace gemel
