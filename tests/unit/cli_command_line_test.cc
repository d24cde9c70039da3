// SPDX-License-Identifier: Apache-2.0
//
// The command line itself: exit codes, suggestions, shapes for completion, waiting.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "client/cli/command_line.h"
#include "client/cli/exit_codes.h"
#include "client/cli/host_facts.h"
#include "client/cli/suggest.h"
#include "client/cli/waiting.h"
#include "common/errors.h"

namespace gemel::cli {
namespace {

TEST(ExitCodes, EveryStatusHasOneAndTheTableNamesIt) {
  const std::string text = ExitCodesText();
  for (int code = 0; code <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++code) {
    const int exit_code = ExitCodeOf(MakeStatus(static_cast<absl::StatusCode>(code), "why"));
    EXPECT_NE(text.find(fmt::format("  {}  ", exit_code)), std::string::npos) << code;
    EXPECT_EQ(exit_code == 0, code == 0);
  }
  EXPECT_EQ(ExitCodeOf(error::InvalidArgument("")), 2);
  EXPECT_EQ(ExitCodeOf(error::NotFound("")), 3);
  EXPECT_EQ(ExitCodeOf(error::Unavailable("")), 4);
  EXPECT_EQ(ExitCodeOf(error::PermissionDenied("")), 5);
  EXPECT_EQ(ExitCodeOf(error::ResourceExhausted("")), 6);
  EXPECT_EQ(ExitCodeOf(error::DataLoss("")), 7);
  EXPECT_EQ(ExitCodeOf(error::DeadlineExceeded("")), 8);
  EXPECT_EQ(ExitCodeOf(error::Internal("")), 1);
}

TEST(Suggest, CountsSwappedNeighboursAsOneStep) {
  EXPECT_EQ(EditDistance("gtp", "gpt"), 1U);
  EXPECT_EQ(EditDistance("", "abc"), 3U);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3U);
  EXPECT_EQ(EditDistance("same", "same"), 0U);
}

TEST(Suggest, NamesTheNearestAndNothingThatIsFar) {
  const std::vector<std::string> known = {"snapshots", "status", "gpt"};
  EXPECT_EQ(Nearest("snapshot", known), "snapshots");
  EXPECT_EQ(Nearest("gtp", known), "gpt");
  EXPECT_EQ(Nearest("fly", known), "");
  EXPECT_EQ(DidYouMean("gtp", known), " (did you mean 'gpt'?)");
  EXPECT_EQ(DidYouMean("gpt", known), "");
  EXPECT_EQ(DidYouMean("x", {}), "");
  EXPECT_EQ(Nearest(std::string(100'000, 'x'), known), "");  // bounded work
}

TEST(Completion, KnowsEveryCommandWithItsFlags) {
  const CommandLine line;
  const std::vector<CommandShape> shapes = line.Shapes();
  std::set<std::string> names;
  for (const CommandShape& shape : shapes) {
    EXPECT_TRUE(names.insert(shape.name).second) << shape.name;
    EXPECT_FALSE(shape.help.empty()) << shape.name;
  }
  for (const char* name :
       {"up", "down", "run", "status", "jobs", "snapshots", "verify", "persist", "rm", "repair",
        "drain", "explain", "doctor", "placement recover", "completion"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
  for (const CommandShape& shape : shapes) {
    EXPECT_EQ(shape.takes_command, shape.name == "run");
    if (shape.name == "persist") {
      EXPECT_TRUE(shape.takes_job);
      EXPECT_TRUE(std::any_of(shape.flags.begin(), shape.flags.end(), [](const FlagShape& flag) {
        return flag.names == std::vector<std::string>{"-o", "--output"} &&
               flag.choices == std::vector<std::string>{"table", "json"};
      }));
    }
    if (shape.name == "completion") {
      EXPECT_EQ(shape.choices, (std::vector<std::string>{"bash", "zsh"}));
    }
  }
}

TEST(Completion, IsThereForTwoShellsOnly) {
  const std::vector<CommandShape> shapes = CommandLine().Shapes();
  for (const char* shell : {"bash", "zsh"}) {
    const auto script = CompletionScript(shell, shapes);
    ASSERT_TRUE(script.ok());
    for (const CommandShape& shape : shapes) {
      EXPECT_NE(script->find(shape.name), std::string::npos) << shape.name;
    }
  }
  const absl::Status refused = CompletionScript("fish", shapes).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(MessageOf(refused).find("bash"), std::string_view::npos);
}

TEST(Waiting, ShowsHowFarTheWorkIs) {
  EXPECT_EQ(WaitingLine("persisting gpt", 1, 2, "1 of 2 shards", 3s),
            "persisting gpt [############------------]  50 % 1 of 2 shards (3 s)");
  EXPECT_EQ(WaitingLine("verifying", 0, 0, "", 12s), "verifying (12 s)");
  EXPECT_EQ(WaitingLine("x", 9, 3, "", 0s), "x [########################] 100 % (0 s)");
}

TEST(HostFacts, ReadsThePortOfAnAddress) {
  EXPECT_EQ(PortOf("127.0.0.1:7601"), 7601);
  EXPECT_EQ(PortOf("[::1]:80"), 80);
  EXPECT_EQ(PortOf("127.0.0.1"), 0);
  EXPECT_EQ(PortOf("127.0.0.1:99999"), 0);
}

TEST(HostFacts, KnowsThisMachine) {
  const MachineMemory memory = ReadMachineMemory();
  EXPECT_GT(memory.most_bytes(), 0U);
  EXPECT_LE(memory.most_bytes(), memory.physical_bytes);
  EXPECT_FALSE(HolderOfPort(1).has_value());
}

}  // namespace
}  // namespace gemel::cli
