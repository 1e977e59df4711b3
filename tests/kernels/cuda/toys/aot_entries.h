// SPDX-License-Identifier: Apache-2.0
//
// In place of the real kernels' list: toys are started by number.
#pragma once

#define LINF_AOT_ENTRIES(Entry)
