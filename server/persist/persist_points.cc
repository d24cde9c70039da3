// SPDX-License-Identifier: Apache-2.0
#include "server/persist/persist_points.h"

#include "common/check.h"

namespace gemel {

CrashPoint PointOf(PersistStep step) {
  switch (step) {
    case PersistStep::kChunkWritten:
      return CrashPoint::kPersistChunkWritten;
    case PersistStep::kFileSynced:
      return CrashPoint::kPersistFileSynced;
    case PersistStep::kDirectorySynced:
      return CrashPoint::kPersistDirectorySynced;
    case PersistStep::kRenamed:
      return CrashPoint::kPersistRenamed;
    case PersistStep::kRenameSynced:
      return CrashPoint::kPersistRenameSynced;
    case PersistStep::kIngested:
      return CrashPoint::kPersistIngested;
    case PersistStep::kRecorded:
      return CrashPoint::kPersistRecorded;
    case PersistStep::kUnrecorded:
      return CrashPoint::kPersistUnrecorded;
    case PersistStep::kRetired:
      return CrashPoint::kPersistRetired;
  }
  GEMEL_CHECK(false) << static_cast<int>(step);
  return CrashPoint::kPersistRetired;
}

}  // namespace gemel
