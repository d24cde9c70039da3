// SPDX-License-Identifier: Apache-2.0
//
// One input of the text fuzzers: the first byte picks what the rest is read as: an address, a size,
// a name, a domain, a file's name.
//
// Thread safety: pure. An input that breaks an invariant ends the process.
#pragma once

#include <string>
#include <vector>

#include "common/check.h"
#include "common/disk.h"
#include "placement/model/cluster_map.h"
#include "placement/model/records.h"
#include "server/byte_size.h"
#include "tests/fuzz/inputs.h"
#include "transport/sim/sim_address.h"
#include "transport/tcp/tcp_address.h"

namespace gemel {

class TextTarget {
 public:
  // True when the text was accepted.
  static bool Run(ByteSpan input) {
    Choices choices(input);
    const uint8_t pick = choices.Byte();
    const std::string text = choices.Rest();
    switch (pick % kKinds) {
      case 0:
        return Tcp(text);
      case 1:
        return Sim(text);
      case 2:
        return ByteSize(text);
      case 3:
        return Name(text);
      case 4:
        return Domain(text);
      default:
        return File(text);
    }
  }

  static std::vector<std::string> Seeds() {
    const std::vector<std::vector<std::string>> texts = {
        {"127.0.0.1:7611", "[::1]:7611", "localhost:0", "127.1.2.3:65535"},
        {"sim://host-0/7601", "unix:///server-0.sock", "sim://a/0"},
        {"1", "64MiB", "4 GiB", "9223372036854775808", "8796093022208mb", "16Tib"},
        {"gpt", "step-7"},
        {"pod0/rack3/host7", "a/b/c/d/e/f/g/h"},
        {"records/job-gpt/00000000000000000012", "identity"}};
    std::vector<std::string> seeds;
    for (size_t kind = 0; kind < texts.size(); ++kind) {
      for (const std::string& text : texts[kind]) {
        seeds.push_back(static_cast<char>(kind) + text);
      }
    }
    return seeds;
  }

 private:
  static constexpr uint8_t kKinds = 6;

  // What it is called is an address again, of the same place.
  static bool Tcp(const std::string& text) {
    const absl::StatusOr<TcpAddress> address = ParseLoopbackAddress(text);
    if (!address.ok()) {
      return false;
    }
    const std::string called = address->ToString();
    GEMEL_CHECK(called.starts_with("tcp://"));
    const absl::StatusOr<TcpAddress> again = ParseLoopbackAddress(called.substr(6));
    GEMEL_CHECK(again.ok() && again->ToString() == called) << called;
    GEMEL_CHECK_EQ(again->port(), address->port());
    return true;
  }

  static bool Sim(const std::string& text) {
    const absl::StatusOr<SimAddress> address = ParseSimAddress("here", text);
    if (!address.ok()) {
      return false;
    }
    const absl::StatusOr<SimAddress> again = ParseSimAddress("here", address->ToString());
    GEMEL_CHECK(again.ok() && again->Key() == address->Key()) << address->ToString();
    return true;
  }

  static bool ByteSize(const std::string& text) {
    const absl::StatusOr<uint64_t> bytes = ParseByteSize(text, "--memory");
    if (bytes.ok()) {
      GEMEL_CHECK_LE(*bytes, uint64_t{1} << 63);
      GEMEL_CHECK(*ParseByteSize(std::to_string(*bytes), "--memory") == *bytes) << text;
    }
    return bytes.ok();
  }

  // What may be a name may be in keys, file names and messages.
  static bool Name(const std::string& text) {
    const bool job = model::CheckJobName(text).ok();
    const bool snapshot = model::CheckSnapshotName(text).ok();
    if (job) {
      GEMEL_CHECK(CheckFileName("records/job-" + text + "/00000000000000000001").ok()) << text;
    }
    GEMEL_CHECK(!(job || snapshot) || text.find_first_of("/@ \n") == text.npos);
    return job || snapshot;
  }

  static bool Domain(const std::string& text) {
    const bool ok = model::ValidateDomain(text).ok();
    if (ok) {
      const std::vector<model::Member> members = {{.domain = text}, {.domain = "other"}};
      GEMEL_CHECK_LE(model::DeepestLevel(members), model::kDomainDepthMax);
      for (uint32_t level = 1; level <= model::DeepestLevel(members); ++level) {
        GEMEL_CHECK_EQ(model::DomainIds(members, level).size(), 2U);
      }
    }
    return ok;
  }

  static bool File(const std::string& text) {
    const bool ok = CheckFileName(text).ok();
    GEMEL_CHECK(!ok || (text.front() != '/' && text.find("..") != 0)) << text;
    GEMEL_CHECK(!ok || CheckFileWrite(text, 0).ok());
    return ok;
  }
};

}  // namespace gemel
