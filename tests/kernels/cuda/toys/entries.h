// SPDX-License-Identifier: Apache-2.0
//
// In place of the real kernels' list.
#pragma once

#define LINF_ENTRIES(Entry)                                                                               \
  Entry(reverse, toys) Entry(reverse_without_barrier, toys) Entry(rotate, toys)                           \
      Entry(rotate_without_barrier, toys) Entry(overrun, toys) Entry(copied, toys)                        \
          Entry(copied_without_wait, toys) Entry(copied_uncommitted, toys) Entry(copied_misaligned, toys) \
              Entry(copied_outside, toys) Entry(ended_early, toys) Entry(divergent, toys)                 \
                  Entry(lane_missing, toys) Entry(lanes_elsewhere, toys) Entry(half_the_block, toys)      \
                      Entry(lanes, toys) Entry(warp_rotate, toys) Entry(warp_rotate_by_vote, toys)        \
                          Entry(same_place, toys)
