// SPDX-License-Identifier: Apache-2.0
#include "gemel/gemel.h"

const char* gemel_version() { return GEMEL_VERSION; }
