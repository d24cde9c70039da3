// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <csignal>

#include "common/abort_at.h"

namespace gemel {
namespace {

void ReachThrice(const std::string& text) {
  const auto set = AbortAt::Set(text);
  Reach(CrashPoint::kServerJoined);
  Reach(CrashPoint::kChunkPlaced);
  Reach(CrashPoint::kServerJoined);
  Reach(CrashPoint::kServerJoined);
}

TEST(AbortAtDeathTest, EndsWithSigkillAtTheNamedTime) {
  const testing::KilledBySignal killed(SIGKILL);
  EXPECT_EXIT(ReachThrice("server.joined"), killed, "abort-at: server.joined reached");
  EXPECT_EXIT(ReachThrice("server.joined:3"), killed, "abort-at: server.joined reached");
  EXPECT_EXIT(ReachThrice("server.chunk-placed:1"), killed, "server.chunk-placed reached");
}

TEST(AbortAt, OutlivesAPointThatIsNotReachedOftenEnough) {
  ReachThrice("server.joined:4");
  ReachThrice("server.chunk-placed:2");
  ReachThrice("placement.store-loaded");
  ReachThrice("");
}

TEST(AbortAt, RefusesAnUnknownPointWithTheList) {
  const auto refused = AbortAt::Set("server.joint");
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string text(refused.status().message());
  EXPECT_NE(text.find("'server.joint'"), std::string::npos) << text;
  for (const std::string_view name : kCrashPointNames) {
    EXPECT_NE(text.find(fmt::format("\n  {}: ", name)), std::string::npos) << name;
  }
}

TEST(AbortAt, RefusesATimeBelowOne) {
  for (const char* text :
       {"server.joined:0", "server.joined:", "server.joined:-1", "server.joined:x"}) {
    EXPECT_EQ(AbortAt::Set(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(AbortAt, LeavesNoHooksBehind) {
  {
    const auto set = AbortAt::Set("server.joined:9");
  }
  EXPECT_EQ(internal::point_hooks, nullptr);
}

}  // namespace
}  // namespace gemel
