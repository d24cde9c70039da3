// SPDX-License-Identifier: Apache-2.0
//
// The settings of gemel-server: defaults < file < flags.
#include <gtest/gtest.h>

#include <vector>

#include "common/bytes.h"
#include "common/errors.h"
#include "server/config.h"
#include "tests/unit/common_temporary_directory.h"
#include "transport/addresses.h"

namespace gemel {
namespace {

constexpr uint64_t kMachine = 8 * kGiB;

absl::StatusOr<ServerConfig> ReadFlags(std::vector<const char*> flags) {
  flags.insert(flags.begin(), "gemel-server");
  bool finished = false;
  auto config = ReadServerConfig(static_cast<int>(flags.size()), flags.data(), &finished);
  EXPECT_FALSE(finished);
  return config;
}

ServerConfig Sound() {
  ServerConfig config;
  config.dir = "/state";
  return config;
}

bool Names(const absl::Status& status, std::string_view text) {
  return MessageOf(status).find(text) != std::string_view::npos;
}

TEST(ServerConfig, FlagsGoBeforeTheFileAndTheFileBeforeDefaults) {
  const TemporaryDirectory folder;
  const std::string file = folder.path() + "/gemel.toml";
  WriteWholeFile(file, "[server]\nname = \"from-file\"\nmemory = \"2GiB\"\nslab_bytes = 1048576\n");
  const auto config = ReadFlags({"--config", file.c_str(), "--memory", "3GiB"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "from-file");
  EXPECT_EQ(config->memory, "3GiB");
  EXPECT_EQ(config->slab_bytes, "1048576");
  EXPECT_EQ(config->placement, "127.0.0.1:7601");
}

TEST(ServerConfig, RefusesAFileThatItDoesNotUnderstand) {
  const TemporaryDirectory folder;
  const std::string file = folder.path() + "/gemel.toml";
  for (const auto& [text, named] :
       std::vector<std::pair<std::string, std::string>>{{"[server\n", "line 1"},
                                                        {"[server]\nmemroy = \"1GiB\"\n", "memroy"},
                                                        {"[server]\nmemory = [1]\n", "memory"}}) {
    WriteWholeFile(file, text);
    const absl::Status refused = ReadFlags({"--config", file.c_str()}).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(Names(refused, named)) << refused;
  }
  EXPECT_FALSE(ReadFlags({"--config", (folder.path() + "/none").c_str()}).ok());
}

TEST(ServerConfig, FillsInWhatFollowsFromTheRest) {
  ServerConfig config = Sound();
  ASSERT_TRUE(CheckServerConfig(&config, kMachine).ok());
  EXPECT_EQ(config.domain, config.name);
  EXPECT_EQ(config.socket, "/state/server.sock");
  EXPECT_EQ(config.memory_size, kGiB);
  EXPECT_EQ(config.slab_size, 4 * kMiB);
}

TEST(ServerConfig, TakesSmallSlabsForSmallMemoryUnlessASizeIsSaid) {
  for (const auto& [memory, slab] : std::vector<std::pair<std::string, uint64_t>>{
           {"64MiB", kMiB}, {"256MiB", kMiB}, {"3GiB", 8 * kMiB}, {"7GiB", 16 * kMiB}}) {
    ServerConfig config = Sound();
    config.memory = memory;
    ASSERT_TRUE(CheckServerConfig(&config, kMachine).ok());
    EXPECT_EQ(config.slab_size, slab) << memory;
  }
  ServerConfig config = Sound();
  config.memory = "100GiB";
  ASSERT_TRUE(CheckServerConfig(&config, 1024 * kGiB).ok());
  EXPECT_EQ(config.slab_size, 64 * kMiB);
  config.slab_bytes = "2MiB";
  ASSERT_TRUE(CheckServerConfig(&config, 1024 * kGiB).ok());
  EXPECT_EQ(config.slab_size, 2 * kMiB);
}

TEST(ServerConfig, ThePersistentTierLiesBelowDirUnlessToldOtherwise) {
  ServerConfig config = Sound();
  ASSERT_TRUE(CheckServerConfig(&config, kMachine).ok());
  EXPECT_EQ(config.persist_dir, "/state/persist");
  auto elsewhere = ReadFlags({"--dir", "/state", "--persist-dir", "/disk"});
  ASSERT_TRUE(elsewhere.ok() && CheckServerConfig(&*elsewhere, kMachine).ok());
  EXPECT_EQ(elsewhere->persist_dir, "/disk");
}

TEST(ServerConfig, AnEmptyPersistDirIsNoTierByFlagAndByFile) {
  auto flag = ReadFlags({"--dir", "/state", "--persist-dir", ""});
  ASSERT_TRUE(flag.ok() && CheckServerConfig(&*flag, kMachine).ok()) << flag.status();
  EXPECT_EQ(flag->persist_dir, "");
  const TemporaryDirectory folder;
  const std::string file = folder.path() + "/gemel.toml";
  WriteWholeFile(file, "[server]\ndir = \"/state\"\npersist_dir = \"\"\n");
  auto read = ReadFlags({"--config", file.c_str()});
  ASSERT_TRUE(read.ok() && CheckServerConfig(&*read, kMachine).ok()) << read.status();
  EXPECT_EQ(read->persist_dir, "");
}

TEST(ServerConfig, RefusesAnAddressBeyondThisMachine) {
  ServerConfig config = Sound();
  config.data_listen = "tcp://10.0.0.1:0";
  absl::Status refused = CheckServerConfig(&config, kMachine);
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(Names(refused, "--data-listen")) << refused;
  config = Sound();
  config.metrics = "0.0.0.0:9";
  refused = CheckServerConfig(&config, kMachine);
  EXPECT_FALSE(refused.ok());
  EXPECT_TRUE(Names(refused, "--metrics")) << refused;
}

TEST(ServerConfig, TakesAnAddressOfAnRdmaDeviceAsItIs) {
  ServerConfig config = Sound();
  config.data_listen = "verbs://10.0.0.1:7611";
  ASSERT_TRUE(CheckServerConfig(&config, kMachine).ok());
  EXPECT_EQ(config.data_listen, "verbs://10.0.0.1:7611");
}

TEST(ServerConfig, TakesSeveralAddressesOnePathEach) {
  ServerConfig config = Sound();
  config.data_listen = "127.0.0.1:7611,tcp://127.0.0.2:7611,verbs://10.0.0.1:7611";
  ASSERT_TRUE(CheckServerConfig(&config, kMachine).ok());
  EXPECT_EQ(config.data_listen, "tcp://127.0.0.1:7611,tcp://127.0.0.2:7611,verbs://10.0.0.1:7611");
  config.data_listen = "tcp://127.0.0.1:7611,tcp://10.0.0.1:0";
  EXPECT_EQ(CheckServerConfig(&config, kMachine).code(), absl::StatusCode::kPermissionDenied);
  std::string many;
  for (size_t i = 0; i <= kAddressesMax; ++i) {
    many += "127.0.0.1:0,";
  }
  for (const std::string& wrong : {std::string(","), many}) {
    config.data_listen = wrong;
    EXPECT_TRUE(Names(CheckServerConfig(&config, kMachine), "--data-listen")) << wrong;
  }
}

TEST(ServerConfig, RefusesMoreMemoryThanTheMachineHasAndNamesBoth) {
  ServerConfig config = Sound();
  config.memory = "16GiB";
  const absl::Status refused = CheckServerConfig(&config, kMachine);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Names(refused, "17179869184")) << refused;
  EXPECT_TRUE(Names(refused, "8589934592")) << refused;
}

TEST(ServerConfig, NamesTheFlagThatIsMissingOrNoSize) {
  ServerConfig config;
  EXPECT_TRUE(Names(CheckServerConfig(&config, kMachine), "--dir"));
  config = Sound();
  config.name = "";
  EXPECT_TRUE(Names(CheckServerConfig(&config, kMachine), "--name"));
  config = Sound();
  config.memory = "much";
  EXPECT_TRUE(Names(CheckServerConfig(&config, kMachine), "--memory"));
  config = Sound();
  config.slab_bytes = "1.5MiB";
  EXPECT_TRUE(Names(CheckServerConfig(&config, kMachine), "--slab-bytes"));
}

TEST(ServerConfig, KnowsTheMemoryOfThisMachine) { EXPECT_GT(MachineMemoryBytes(), kMiB); }

}  // namespace
}  // namespace gemel
