// SPDX-License-Identifier: Apache-2.0
//
// What the benches in C++ share: measurements of ours beside those of a yardstick, one table, and
// the same JSON as bench/measured.py writes (build/bench/NAME.json: every sample, machine, commit).
//
// Thread safety: one thread. Errors: a bench that cannot measure ends by GEMEL_CHECK.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace gemel {

// The value at `part` of the sorted ones, 0.5 the median. REQUIRES: not empty; 0 <= part <= 1.
double Quantile(std::vector<double> values, double part);

// Of one call.
double SecondsOf(const std::function<void()>& work);

// Of this process's shared memory, what lies in huge pages.
double HugeMib();

// One line of the table: what was measured in turn, and the ratio of each pair.
struct Pairs {
  std::string what;
  std::string unit;
  std::string yardstick;
  std::vector<double> ours;
  std::vector<double> bare;
  std::vector<double> ratios;
  std::optional<double> target;  // of the median of the ratios
  bool at_least = false;         // else at most
};

class PairsReport {
 public:
  // `name`: of the bench, and of its file.
  explicit PairsReport(std::string name);

  // For the file and the head of the table.
  void Fact(const std::string& what, double value);

  // Prints its line.
  void Add(const Pairs& pairs);

  // Writes the file; what main() returns: 1 when a target was missed.
  int Finish();

 private:
  void Field(const std::string& name, const std::string& json);
  void Samples(const std::string& name, const std::vector<double>& values, const std::string& unit);

  const std::string name_;
  std::string json_;     // the fields so far
  std::string targets_;  // likewise
  bool missed_ = false;
  bool head_printed_ = false;
};

}  // namespace gemel
