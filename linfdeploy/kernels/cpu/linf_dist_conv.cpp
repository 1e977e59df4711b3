// SPDX-License-Identifier: Apache-2.0
#include "linf_dist_conv.h"

#include <algorithm>
#include <memory>

namespace linf {
namespace {

// Floats of the windows and of the distances that a worker holds at once: 128 KiB each stay in its cache. The
// dense kernel packs the filters anew for each block, so it must be worth it.
constexpr int64_t kScratch = 1 << 15;
constexpr int64_t kLeastWindows = 64, kMostWindows = 512;
constexpr int64_t kMaxWorkers = 256;
// Below this a thread costs more than it gains; as for the dense kernels.
constexpr int64_t kTermsWorthAThread = 1 << 17;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Everything that a worker needs. The windows of all images are numbered through, and a block is a run of
// them.
struct Job {
  const Kernels& kernels;
  const Convolution& c;
  const float *x, *w, *bias;
  float* y;
  float* scratch;
  int64_t places[2];   // of an image
  int64_t terms;       // of a window
  int64_t windows;     // of all images
  int64_t per_block;   // windows
  int64_t per_worker;  // blocks

  int64_t image_places() const { return places[0] * places[1]; }
  int64_t scratch_size() const { return per_block * (terms + c.outputs); }
};

// The part [first, last) of a window's axis that lies inside the image.
struct Inside {
  int64_t start, first, last;
};

Inside inside(const Convolution& c, int axis, int64_t place) {
  const int64_t start = place * c.stride[axis] - c.pads[axis], step = c.dilation[axis];
  const int64_t first = start < 0 ? ceil_div(-start, step) : 0;
  const int64_t last = start < c.size[axis] ? ceil_div(c.size[axis] - start, step) : 0;
  return {start, std::min(first, c.kernel[axis]), std::min(last, c.kernel[axis])};
}

// One row of a window. Most kernels are a few floats wide: a loop beats a call of memcpy.
void gather_row(const Convolution& c, const float* row, const Inside& columns, float* out) {
  int64_t k = 0;
  for (; k < columns.first; ++k) out[k] = 0;
  for (; k < columns.last; ++k) out[k] = row[columns.start + k * c.dilation[1]];
  for (; k < c.kernel[1]; ++k) out[k] = 0;
}

void gather_window(const Convolution& c, const float* image, int64_t row, int64_t column, float* out) {
  const Inside rows = inside(c, 0, row), columns = inside(c, 1, column);
  for (int64_t channel = 0; channel < c.channels; ++channel, image += c.size[0] * c.size[1]) {
    for (int64_t k = 0; k < c.kernel[0]; ++k, out += c.kernel[1]) {
      if (k < rows.first || k >= rows.last) {
        std::fill(out, out + c.kernel[1], 0.0f);
      } else {
        gather_row(c, image + (rows.start + k * c.dilation[0]) * c.size[1], columns, out);
      }
    }
  }
}

void gather(const Job& job, int64_t first, int64_t count, float* out) {
  const int64_t image_size = job.c.channels * job.c.size[0] * job.c.size[1];
  for (int64_t window = first; window < first + count; ++window, out += job.terms) {
    const int64_t place = window % job.image_places();
    gather_window(job.c, job.x + window / job.image_places() * image_size, place / job.places[1],
                  place % job.places[1], out);
  }
}

// distances (outputs, count) to their places in y, with the bias.
void scatter(const Job& job, int64_t first, int64_t count, const float* distances) {
  const int64_t each = job.image_places();
  for (int64_t done = 0; done < count;) {
    const int64_t image = (first + done) / each, place = (first + done) % each;
    const int64_t run = std::min(count - done, each - place);
    for (int64_t o = 0; o < job.c.outputs; ++o) {
      const float* in = distances + o * count + done;
      float* out = job.y + (image * job.c.outputs + o) * each + place;
      const float bias = job.bias ? job.bias[o] : 0;
      // Distances are never -0, so adding a 0 that is not there keeps their bits.
      for (int64_t i = 0; i < run; ++i) out[i] = in[i] + bias;
    }
    done += run;
  }
}

// |x - w| is symmetric: with the filters as the batch and the windows as the weights, the distances come out
// in the order in which y holds them.
void run_block(const Job& job, int64_t block, float* windows) {
  const int64_t first = block * job.per_block, count = std::min(job.per_block, job.windows - first);
  float* distances = windows + job.per_block * job.terms;
  gather(job, first, count, windows);
  job.kernels.linf_dist({job.c.outputs, job.terms, count, fork_join(1)}, job.w, windows, nullptr, distances);
  scatter(job, first, count, distances);
}

void run_worker(void* context, int64_t worker) {
  const Job& job = *static_cast<const Job*>(context);
  const int64_t first = worker * job.per_worker;
  const int64_t last = std::min(first + job.per_worker, ceil_div(job.windows, job.per_block));
  for (int64_t block = first; block < last; ++block)
    run_block(job, block, job.scratch + worker * job.scratch_size());
}

// Twice as many shares as threads: none waits long for the slowest.
int64_t workers_for(const Job& job, int64_t blocks, int threads) {
  const int64_t terms = job.windows * job.c.outputs * job.terms;
  return std::min({2 * static_cast<int64_t>(threads), blocks, kMaxWorkers, terms / kTermsWorthAThread + 1});
}

}  // namespace

int64_t places(const Convolution& c, int axis) {
  const int64_t reach = c.dilation[axis] * (c.kernel[axis] - 1) + 1;
  const int64_t room = c.size[axis] + c.pads[axis] + c.pads[axis + 2] - reach;
  return room < 0 ? 0 : room / c.stride[axis] + 1;
}

void linf_dist_conv(const Kernels& kernels, const Convolution& c, const float* x, const float* w,
                    const float* bias, float* y) {
  Job job{kernels, c, x, w, bias, y, nullptr, {places(c, 0), places(c, 1)}, 0, 0, 0, 0};
  job.terms = c.channels * c.kernel[0] * c.kernel[1];
  job.windows = c.batch * job.image_places();
  if (job.windows <= 0) return;
  const int64_t fitting = kScratch / std::max(job.terms, c.outputs);
  job.per_block = std::min(std::clamp(fitting, kLeastWindows, kMostWindows), job.windows);
  const int64_t blocks = ceil_div(job.windows, job.per_block);
  job.per_worker = ceil_div(blocks, workers_for(job, blocks, c.pool.threads));
  const int64_t workers = ceil_div(blocks, job.per_worker);
  const std::unique_ptr<float[]> scratch(new float[workers * job.scratch_size()]);
  job.scratch = scratch.get();
  // Also where there is one worker: it sets the floating-point environment, which the bias needs.
  parallel_for(c.pool, workers, run_worker, &job);
}

}  // namespace linf
