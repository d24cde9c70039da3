// SPDX-License-Identifier: Apache-2.0
//
// Whole servers on the simulated fabric: what lies in the memory of holders is damaged after the
// commit, and a client of a server without a copy reads it.
#include <gtest/gtest.h>

#include "tests/corruption/damage.h"
#include "tests/unit/server_world.h"

namespace gemel::testing {
namespace {

constexpr uint64_t kBytes = 2 * kMiB + 5000;
constexpr uint32_t kChunks = 3;
constexpr uint64_t kInjections = 42;  // six of each kind

struct Committed : ServerWorld {
  Committed() : ServerWorld(3), saver(&world, "server-0") {
    GEMEL_CHECK(saver.Hello("server-0").ok());
    CommitShard(&saver, "6", kBytes);
    shard = CommitShard(&saver, "7", kBytes);
    for (uint32_t i = 0; i < 3; ++i) {
      if (server(i).objects().Find(shard) != nullptr) {
        holders.push_back(i);
      } else {
        reader = std::make_unique<TestClient>(&world, "server-" + std::to_string(i));
        GEMEL_CHECK(reader->Hello("server-" + std::to_string(i)).ok());
      }
    }
    GEMEL_CHECK_EQ(holders.size(), 2U);
  }

  // What a truncation is to memory: the end was never written.
  void Damage(uint32_t holder, DamageKind kind, Random* random) {
    const auto object = server(holder).objects().Find(shard);
    const auto chunk = static_cast<uint32_t>(random->Below(kChunks));
    const MutableByteSpan place = object->Chunk(chunk);
    const auto text = [](MutableByteSpan bytes) {
      return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    };
    std::string stale(text(place));
    std::string other = stale;
    stale[stale.size() / 2] = static_cast<char>(stale[stale.size() / 2] ^ 0x40);
    std::rotate(other.begin(), other.begin() + 100, other.end());
    std::string damaged =
        Damaged(kind, {.good = text(place), .stale = stale, .other = other}, random);
    damaged.resize(place.size(), '\x5a');
    std::memcpy(place.data(), damaged.data(), damaged.size());
  }

  absl::StatusOr<FetchChunksReply> Read() {
    const auto begun = reader->Begin();
    GEMEL_CHECK(begun.ok()) << begun.status().ToString();
    return reader->Fetch(begun->restore, 0, 0, kChunks);
  }

  TestClient saver;
  std::unique_ptr<TestClient> reader;
  ShardId shard;
  std::vector<uint32_t> holders;
};

TEST(ServersCorruption, DamageInOneMemoryIsFoundAndTheOtherCopyIsRead) {
  Random random(21);
  for (uint64_t i = 0; i < kInjections; ++i) {
    Committed c;
    const uint32_t holder = c.holders[random.Below(2)];
    c.Damage(holder, kDamageKinds[i % std::size(kDamageKinds)], &random);
    const auto fetched = c.Read();
    ASSERT_TRUE(fetched.ok()) << i << ": " << fetched.status();
    ASSERT_TRUE(c.reader->Holds(*fetched, 0, 0)) << "injection " << i;
  }
}

TEST(ServersCorruption, DamageOnTheWayToAReaderIsFoundAndReadAgain) {
  uint64_t injected = 0;
  for (uint64_t i = 0; i < kInjections / 2; ++i) {
    Committed c;
    const std::string to = c.reader->life.process->node();
    for (const uint32_t holder : c.holders) {
      c.world.world.Faults("server-" + std::to_string(holder), to).corrupt_ppm = 200'000;
    }
    const auto fetched = c.Read();
    for (const uint32_t holder : c.holders) {
      injected += c.world.world.Stats("server-" + std::to_string(holder), to).corruptions;
    }
    if (fetched.ok()) {
      ASSERT_TRUE(c.reader->Holds(*fetched, 0, 0)) << "injection " << i;
    }
  }
  EXPECT_GT(injected, 10U);
}

TEST(ServersCorruption, DamageOfAllCopiesGivesAnErrorAndNoByte) {
  Random random(22);
  for (uint64_t i = 0; i < kInjections; ++i) {
    Committed c;
    for (const uint32_t holder : c.holders) {
      const DamageKind kind = kDamageKinds[(i + holder) % std::size(kDamageKinds)];
      Random same(i);  // the same chunk at both
      c.Damage(holder, kind, &same);
    }
    const auto fetched = c.Read();
    ASSERT_FALSE(fetched.ok()) << "injection " << i;
    EXPECT_EQ(fetched.status().code(), absl::StatusCode::kDataLoss) << fetched.status();
  }
}

}  // namespace
}  // namespace gemel::testing
