// SPDX-License-Identifier: Apache-2.0
//
// Changed gemel.toml files to the server's settings: an error that names the way out, or settings
// that pass or fail their check; never a crash.
#include <gtest/gtest.h>

#include "server/config.h"
#include "tests/fuzz/inputs.h"
#include "tests/unit/common_temporary_directory.h"

namespace gemel {
namespace {

constexpr int kInputs = 1000;

bool ReadSettings(const std::string& file, ByteSpan input) {
  WriteWholeFile(file, std::string(AsText(input)));
  const char* const flags[] = {"gemel-server", "--config", file.c_str()};
  bool finished = false;
  absl::StatusOr<ServerConfig> config = ReadServerConfig(3, flags, &finished);
  EXPECT_FALSE(finished);
  if (!config.ok()) {
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << config.status();
    return false;
  }
  const absl::Status checked = CheckServerConfig(&*config, 8 * kGiB);
  EXPECT_TRUE(!checked.ok() || config->memory_size <= 8 * kGiB);
  return checked.ok();
}

TEST(ConfigFuzzReplay, NoFileBreaksAnInvariant) {
  const TemporaryDirectory folder;
  const std::string file = folder.path() + "/gemel.toml";
  const std::vector<std::string> seeds = {
      "[server]\ndir = \"/state\"\nmemory = \"2GiB\"\nslab_bytes = 1048576\n",
      "# two\n[server]\ndir = '/s'\nname = \"a\\u00e9\"\ndata_listen = \"[::1]:0\"\n[other]\nx = "
      "[1, {y = 2}]\n",
      "server.dir = \"/state\"\nserver.metrics = \"127.0.0.1:9000\"\n"};
  for (const std::string& seed : seeds) {
    EXPECT_TRUE(ReadSettings(file, AsBytes(seed))) << seed;
  }
  const size_t accepted =
      ReplayChanged(seeds, kInputs, 1, [&](ByteSpan input) { return ReadSettings(file, input); });
  EXPECT_GT(accepted, static_cast<size_t>(kInputs) / 20) << "the inputs do not get inside";
}

}  // namespace
}  // namespace gemel
