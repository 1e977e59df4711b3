/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA kernels for any caller: plain C, nothing of CUDA included. A launcher chooses a kernel and its
 * grid for the sizes and starts it through `LinfLauncher`, so the same launchers serve the TensorRT plugin
 * (CUDA's runtime), Python (kernels compiled at run time) and the tests (an emulator).
 *
 * Matrices are row-major and contiguous, on the device: x, lower, upper (batch, inputs); w (outputs, inputs);
 * y and grad_y (batch, outputs). Each has fewer than 2^31 elements and rows of at most
 * 2^31 - 64 bytes, inputs >= 1; nothing is started for an
 * empty result. Every launcher returns 0, or the code with which `start` failed.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct LinfGrid {
  uint32_t blocks, threads, shared_bytes;
} LinfGrid;

/* Which of several kernels that give the same bits. Where the one asked for does not fit, as few rows do not
 * fit a large batch, the launcher chooses by size. */
typedef enum LinfTactic {
  LINF_BY_SIZE,
  LINF_FEW_ROWS,
  LINF_LARGE_TILES,
  LINF_MEDIUM_TILES,
  LINF_SMALL_TILES
} LinfTactic;

typedef struct LinfLauncher LinfLauncher;
struct LinfLauncher {
  /* Starts kernel number `entry` of cuda/entries.h, in order after what was started before. `arguments`
   * points to the address of each argument. Returns 0, or an error code of the caller's own. */
  int (*start)(const LinfLauncher* self, int32_t entry, LinfGrid grid, void** arguments);
  int32_t multiprocessors; /* of the device, for choosing between tiles */
  LinfTactic tactic;       /* for linf_dist_cuda */
};

typedef struct LinfSizes {
  int32_t batch, inputs, outputs;
} LinfSizes;

typedef enum LinfDtype { LINF_FLOAT32, LINF_FLOAT16, LINF_INT16, LINF_INT8, LINF_UINT8 } LinfDtype;

/* y = max_i |x_i - w_i| + bias, rounded after the difference and after the sum; a null bias adds nothing, and
 * integers take none. y is of the dtype of x, but uint16 for int16 and uint8 for int8. */
int linf_dist_cuda(const LinfLauncher* launcher, LinfDtype dtype, LinfSizes n, const void* x, const void* w,
                   const void* bias, void* y);

/* y = max_i |x_i - w_i| and the lowest index that attains it. */
int linf_dist_argmax_cuda(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w, float* y,
                          int64_t* index);

/* Scatters grad_y to the inputs and weights that attained the maximum, in a fixed order. grad_x and grad_w
 * are overwritten; a null one is not computed. */
int linf_dist_backward_cuda(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w,
                            const int64_t* index, const float* grad_y, float* grad_x, float* grad_w);

/* y_lower <= linf_dist(x) <= y_upper, in float arithmetic, for every float x with lower <= x <= upper. */
int linf_dist_bounds_cuda(const LinfLauncher* launcher, LinfSizes n, const float* lower, const float* upper,
                          const float* w, float* y_lower, float* y_upper);

/* x (images, channels, image[0], image[1]), w (filters, channels, kernel[0], kernel[1]) and
 * y (images, filters, places[0], places[1]); padding is in front, and zeros take part in the maximum. */
typedef struct LinfWindow {
  int32_t images, channels, filters;
  int32_t image[2], kernel[2], stride[2], dilation[2], padding[2], places[2];
} LinfWindow;
int linf_dist_conv_cuda(const LinfLauncher* launcher, LinfWindow window, const float* x, const float* w,
                        const float* bias, float* y);

/* y = (sum_i |x_i - w_i|^p)^(1/p) = scale * sum^(1/p), with a scale of the launcher's choice (the largest
 * term, or 1 where no power overflows). With a non-null `p_now` the kernels read p from there when they run,
 * as a captured graph needs it; `p` then only chooses the kernels, and both must be of one kind: see
 * lp_dist_kind. */
int lp_dist_cuda(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w, float p,
                 const float* p_now, float* y, float* scale, float* sum);

/* Kernels are compiled for kinds of p; a captured graph holds as long as the kind does. */
int32_t lp_dist_kind(float p);

/* The gradients, from what the forward pass kept, summed in a fixed order. A null one is not computed.
 * `scratch` has lp_dist_backward_scratch_cuda bytes, at an address that is a multiple of 16. */
size_t lp_dist_backward_scratch_cuda(LinfSizes n);
int lp_dist_backward_cuda(const LinfLauncher* launcher, LinfSizes n, const float* x, const float* w, float p,
                          const float* p_now, const float* scale, const float* sum, const float* grad_y,
                          float* grad_x, float* grad_w, void* scratch);

#ifdef __cplusplus
}
#endif
