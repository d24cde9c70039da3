// SPDX-License-Identifier: Apache-2.0
//
// Versions: programs, running processes and the Python package must be of one build.
#include <fmt/format.h>

#include "client/cli/doctor.h"

namespace gemel::cli {
namespace {

std::string NameOf(const PartVersion& part) {
  return fmt::format("{} {} ({})", part.part, part.version.empty() ? "of no version" : part.version,
                     part.where);
}

Finding CheckPrograms(const VersionFacts& facts) {
  std::string mixed;
  for (const PartVersion& program : facts.programs) {
    if (program.version != facts.own) {
      mixed += (mixed.empty() ? "" : ", ") + NameOf(program);
    }
  }
  if (mixed.empty()) {
    return {"programs", Level::kOk,
            fmt::format("gemel, gemel-server and gemel-placement {}", facts.own), ""};
  }
  return {"programs", Level::kFail,
          fmt::format("this is gemel {}, but beside it: {}", facts.own, mixed),
          "install Gemel whole: all programs of one version in one folder"};
}

Finding CheckProcesses(const VersionFacts& facts) {
  if (facts.processes.empty()) {
    return {"running versions", Level::kOk, "nothing runs below --dir", ""};
  }
  std::string mixed;
  std::string replaced;
  for (const PartVersion& process : facts.processes) {
    if (process.version != facts.own) {
      mixed += (mixed.empty() ? "" : ", ") + NameOf(process);
    } else if (process.replaced) {
      replaced += (replaced.empty() ? "" : ", ") + process.part;
    }
  }
  const std::string restart = "gemel persist the jobs you need, then gemel down, gemel up";
  if (!mixed.empty()) {
    return {"running versions", Level::kFail,
            fmt::format("this is gemel {}, but there run: {}", facts.own, mixed), restart};
  }
  if (!replaced.empty()) {
    return {"running versions", Level::kWarn,
            fmt::format("the program file was replaced since they started: {}", replaced), restart};
  }
  return {"running versions", Level::kOk,
          fmt::format("{} processes of {}", facts.processes.size(), facts.own), ""};
}

Finding CheckPackage(const VersionFacts& facts) {
  if (facts.package.version.empty()) {
    return {"Python package", Level::kWarn,
            fmt::format("python3 of PATH ({}) cannot import gemel",
                        facts.package.where.empty() ? "none" : facts.package.where),
            facts.package_folder.empty()
                ? "install the package of this version, or put its folder into PYTHONPATH"
                : fmt::format("export PYTHONPATH={}", facts.package_folder)};
  }
  if (facts.package.version != facts.own || facts.native.version != facts.own) {
    return {"Python package", Level::kFail,
            fmt::format("this is gemel {}, but python3 imports {} with {}", facts.own,
                        NameOf(facts.package), NameOf(facts.native)),
            facts.package_folder.empty()
                ? "install the package of this version"
                : fmt::format("export PYTHONPATH={}", facts.package_folder)};
  }
  return {"Python package", Level::kOk,
          fmt::format("{} at {}", facts.package.version, facts.package.where), ""};
}

}  // namespace

Findings CheckVersions(const VersionFacts& facts) {
  return {CheckPrograms(facts), CheckProcesses(facts), CheckPackage(facts)};
}

}  // namespace gemel::cli
