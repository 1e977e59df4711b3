// SPDX-License-Identifier: Apache-2.0
//
// How CUDA kernels of the l_p distance cut their work: the one place that launchers on the host and kernels
// on the device read. None of it depends on the card, so neither do the bits of a gradient.
#pragma once

#include "linf/geometry.h"

namespace linf {

// What kernels are compiled for. All else that depends on p is computed on the device.
enum LpKind : int { kEight, kGeneral, kLarge };
// From here on most terms are negligible, and looking for the others pays.
constexpr float kLargePower = 40;
constexpr int lp_kind_of(float p) { return p == 8 ? kEight : p < kLargePower ? kGeneral : kLarge; }

// The forward pass. Sums of p = 8 and thresholds take one or two registers of each result, ratios with their
// compensated sums four.
using EighthTile = Tile<8, 16, 8, 4>;
using SmallEighthTile = Tile<8, 16, 4, 4>;
using RatioTile = Tile<8, 16, 4, 4>;
using SearchTile = Tile<8, 16, 8, 4>;
// The sums of a search lie in shared memory, behind the stages.
constexpr int kSearchSums = SearchTile::kThreadRows * SearchTile::kThreadColumns * SearchTile::kThreads;
constexpr int kSearchShared = SearchTile::kSharedBytes + kSearchSums * 4;
static_assert(kSearchShared <= kSharedLimit, "what every card gives");

// Results that turn into distances: a thread each.
constexpr int kRootThreads = 256;

// The backward pass: a block walks down the batch, kRows rows at a time, for kInputs inputs. A thread holds
// kThreadRows x kThreadInputs slopes' operands. kOutputs outputs make a stage.
template <int Warps>
struct SlopeTile {
  static constexpr int kWarps = Warps, kThreads = Warps * kWarp;
  static constexpr int kThreadRows = 8, kThreadInputs = 4, kOutputs = 4;
  static_assert(kThreads % (kWarp * kThreadInputs) == 0, "a thread copies and adds one input's weights");
  static constexpr int kRows = Warps * kThreadRows, kInputs = kWarp * kThreadInputs;
  // Weights of a stage; one plane of what belongs to a pair of rows; every warp's
  // part of a gradient of weights.
  static constexpr int kWeights = kOutputs * kInputs, kPlane = kOutputs * kRows, kSums = Warps * kWeights;
  template <int Planes>
  static constexpr int kStage = kWeights + Planes * kPlane;
};

// Every term counts: planes are 1/scale and grad_y's factor. The sums of a stage are added up
// while the next is computed.
using DenseSlopes = SlopeTile<8>;
constexpr int kDensePlanes = 2;
constexpr int kDenseShared = kStages * (DenseSlopes::kStage<kDensePlanes> + DenseSlopes::kSums) * 4;
// Few terms count: the threshold and the scale in addition, and the gradient of inputs in shared memory too.
using SparseSlopes = SlopeTile<4>;
constexpr int kSparsePlanes = 4;
constexpr int kSparseShared = (kStages * (SparseSlopes::kStage<kSparsePlanes> + SparseSlopes::kSums) +
                               SparseSlopes::kRows * SparseSlopes::kInputs) *
                              4;
static_assert(kDenseShared <= kSharedLimit && kSparseShared <= kSharedLimit, "what every card gives");

// Planes (outputs, padded batch), so that what a stage needs of them is contiguous.
constexpr int padded_batch(int batch) {
  return (batch + DenseSlopes::kRows - 1) / DenseSlopes::kRows * DenseSlopes::kRows;
}
// Pairs that a block prepares: rows side by side, as they are written.
constexpr int kPairRows = kWarp, kPairOutputs = 8;

// Outputs are cut into so many equal shares, each with a gradient of inputs of its own, that a card with two
// hundred and sixty blocks at a time is full five times over, whatever is left for the last turn. None has
// less than four stages.
constexpr int kSlopeBlocks = 1280, kLeastShare = 16, kMostShares = 64;
constexpr int output_shares(int inputs, int outputs) {
  const int columns = (inputs + DenseSlopes::kInputs - 1) / DenseSlopes::kInputs;
  const int wanted = (kSlopeBlocks + columns - 1) / columns, most = (outputs + kLeastShare - 1) / kLeastShare;
  const int shares = wanted < most ? wanted : most;
  return shares < kMostShares ? shares : kMostShares;
}
// Outputs of a share, whole stages; the last may have fewer. Rounding up may make
// fewer shares than asked for.
constexpr int share_size(int outputs, int shares) {
  constexpr int kStage = DenseSlopes::kOutputs;
  return ((outputs + shares - 1) / shares + kStage - 1) / kStage * kStage;
}

}  // namespace linf
