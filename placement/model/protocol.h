// SPDX-License-Identifier: Apache-2.0
//
// The control contract's version, where placement and servers look for it. It is defined in common/
// because the CLI, which may not include placement, speaks the contract too.
#pragma once

#include "common/control_protocol.h"  // IWYU pragma: export
