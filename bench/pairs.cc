// SPDX-License-Identifier: Apache-2.0
#include "bench/pairs.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string_view>
#include <utility>

#include "common/check.h"

namespace gemel {
namespace {

constexpr char kRoot[] = GEMEL_SOURCE_DIR;

std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
    }
    quoted += c;
  }
  return quoted + "\"";
}

// What follows the colon of the first line of a file that begins with `field`.
std::string FieldOf(const char* path, std::string_view field) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(field)) {
      const size_t at = line.find_first_not_of(" \t", line.find(':') + 1);
      return at == std::string::npos ? "" : line.substr(at);
    }
  }
  return "unknown";
}

std::string Commit() {
  const std::string command = fmt::format("git -C '{}' describe --always --dirty 2>&1", kRoot);
  const std::unique_ptr<FILE, int (*)(FILE*)> output(popen(command.c_str(), "r"), pclose);
  std::array<char, 200> line{};
  if (output == nullptr || std::fgets(line.data(), line.size(), output.get()) == nullptr) {
    return "unknown";
  }
  std::string commit = line.data();
  commit.erase(commit.find_last_not_of('\n') + 1);
  return commit;
}

std::string MachineJson() {
  utsname kernel{};
  GEMEL_CHECK_EQ(uname(&kernel), 0);
  double load = 0;
  GEMEL_CHECK_EQ(getloadavg(&load, 1), 1);
  const double memory_kib = std::strtod(FieldOf("/proc/meminfo", "MemTotal").c_str(), nullptr);
  return fmt::format(
      R"({{"cpu": {}, "cores": {}, "memory_gib": {:.1f}, "kernel": {}, "load": {:.2f}}})",
      Quoted(FieldOf("/proc/cpuinfo", "model name")), sysconf(_SC_NPROCESSORS_ONLN),
      memory_kib / (1 << 20), Quoted(kernel.release), load);
}

}  // namespace

double Quantile(std::vector<double> values, double part) {
  GEMEL_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const auto index = std::lround(part * static_cast<double>(values.size() - 1));
  return values[static_cast<size_t>(index)];
}

double HugeMib() {
  return std::strtod(FieldOf("/proc/self/smaps_rollup", "ShmemPmdMapped").c_str(), nullptr) / 1024;
}

double SecondsOf(const std::function<void()>& work) {
  const auto began = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

PairsReport::PairsReport(std::string name) : name_(std::move(name)) {
  const std::string commit = Commit();
  const std::string machine = MachineJson();
  fmt::print("bench/{} of {} on {}\n", name_, commit, machine);
  Field("bench", Quoted(name_));
  Field("commit", Quoted(commit));
  Field("machine", machine);
}

void PairsReport::Fact(const std::string& what, double value) {
  fmt::print("{}: {:g}\n", what, value);
  Field(what, fmt::format("{}", value));
}

void PairsReport::Add(const Pairs& pairs) {
  GEMEL_CHECK_EQ(pairs.ratios.size(), pairs.ours.size()) << pairs.what;
  if (!std::exchange(head_printed_, true)) {
    fmt::print("{:<50} {:>10} {:>10}   {:>6} {}\n", "", "ours", "yardstick", "ratio",
               "[least most]");
  }
  const double ratio = Quantile(pairs.ratios, 0.5);
  std::string verdict = pairs.yardstick;
  if (pairs.target.has_value()) {
    const bool met = pairs.at_least ? ratio >= *pairs.target : ratio <= *pairs.target;
    const std::string bound = fmt::format("{} {:.2f}", pairs.at_least ? ">=" : "<=", *pairs.target);
    verdict = fmt::format("{} x {}: {}", bound, pairs.yardstick, met ? "met" : "MISSED");
    targets_ += fmt::format(R"({}{}: {{"value": {}, "bound": "{}", "met": {}}})",
                            targets_.empty() ? "" : ", ", Quoted(pairs.what), ratio, bound, met);
    missed_ = missed_ || !met;
  }
  fmt::print("{:<50} {:>10.4g} {:>10.4g}   {:>6.3f} [{:.3f} {:.3f}]   {}\n",
             pairs.what + ", " + pairs.unit, Quantile(pairs.ours, 0.5), Quantile(pairs.bare, 0.5),
             ratio, Quantile(pairs.ratios, 0.0), Quantile(pairs.ratios, 1.0), verdict);
  std::fflush(stdout);
  Samples(pairs.what, pairs.ours, pairs.unit);
  Samples(fmt::format("{}: {}", pairs.what, pairs.yardstick), pairs.bare, pairs.unit);
  Samples(pairs.what + ": ratio", pairs.ratios, "x");
}

int PairsReport::Finish() {
  Field("targets", "{" + targets_ + "}");
  const std::string folder = std::string(kRoot) + "/build/bench";
  const std::string path = folder + "/" + name_ + ".json";
  std::filesystem::create_directories(folder);
  std::ofstream out(path, std::ios::trunc);
  out << "{" << json_ << "\n}\n";
  GEMEL_CHECK(out.flush()) << path;
  fmt::print("written to build/bench/{}.json\n", name_);
  return missed_ ? 1 : 0;
}

void PairsReport::Field(const std::string& name, const std::string& json) {
  json_ += fmt::format("{}\n  {}: {}", json_.empty() ? "" : ",", Quoted(name), json);
}

void PairsReport::Samples(const std::string& name, const std::vector<double>& values,
                          const std::string& unit) {
  Field(name,
        fmt::format(
            R"({{"min": {}, "median": {}, "max": {}, "count": {}, "unit": {}, "values": [{}]}})",
            Quantile(values, 0.0), Quantile(values, 0.5), Quantile(values, 1.0), values.size(),
            Quoted(unit), fmt::join(values, ", ")));
}

}  // namespace gemel
