// SPDX-License-Identifier: Apache-2.0
#include "common/copies.h"
#include "gemel/gemel.h"

uint64_t gemel_copied_bytes() { return gemel::CopiedBytes(); }
