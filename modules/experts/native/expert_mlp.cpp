// The sorted form of modules/experts/products.py: same arguments, same results; all tensors are contiguous.
//
// The rows, sorted by expert, are cut into one run of equal length per thread, whatever the loads of the experts. A
// thread walks through its run expert by expert in blocks of rows: what happens between two products happens in its
// cache, and threads wait for each other once per pass instead of once per product. Where the border of two runs cuts
// an expert, the later run keeps its share of that expert's gradients apart, to be added at the end.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

using at::Tensor;
using std::int64_t;
using std::string;

extern "C" {  // of the BLAS that torch is linked with
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
            const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*, const int*,
            const double*, const int*, const double*, double*, const int*);
}

namespace {

constexpr int64_t BLOCK = 256;  // most rows at a time
constexpr int64_t LEAST = 16;   // fewer rows than this are not worth another thread

template <class T>
using Vec = at::vec::Vectorized<T>;

template <class T>
const T* get(const Tensor& t) { return t.const_data_ptr<T>(); }

template <class T>
T* set(const Tensor& t) { return t.mutable_data_ptr<T>(); }

// `out = left @ right + beta * out`, sizes `[m, k]` and `[k, n]`, row by row; a factor with `_t` is stored transposed.
template <class T>
void product(int m, int n, int k, const T* left, bool left_t, const T* right, bool right_t, T beta, T* out) {
  const int left_width = left_t ? m : k, right_width = right_t ? k : n;
  const T one = 1;
  const auto gemm = [] {
    if constexpr (std::is_same_v<T, float>) return &sgemm_;
    else return &dgemm_;
  }();
  // BLAS counts by column and so sees every matrix transposed: the factors change places.
  gemm(right_t ? "T" : "N", left_t ? "T" : "N", &n, &m, &k, &one, right, &right_width, left, &left_width, &beta, out,
       &n);
}

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <class T>
void add(T* to, T factor, const T* a, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += factor * a[i];
}

// One row through the activation, `[h]` or for SwiGLU `[2 h]` with the gates first, to `[h]`.
template <class T>
void activate(const string& name, const T* before, T* to, int64_t h) {
  const Vec<T> one(1), half(0.5), root(M_SQRT1_2);
  if (name == "relu")
    for (int64_t i = 0; i < h; ++i) to[i] = before[i] < 0 ? T(0) : before[i];  // NaN stays NaN
  else if (name == "gelu")
    at::vec::map<T>([&](Vec<T> x) { return half * x * (one + (root * x).erf()); }, to, before, h);
  else
    at::vec::map2<T>([&](Vec<T> g, Vec<T> v) { return g / (one + g.neg().exp()) * v; }, to, before, before + h, h);
}

// The gradient before it, from the gradient behind it; `to` may be `grad` except for SwiGLU.
template <class T>
void activate_backward(const string& name, const T* before, const T* grad, T* to, int64_t h) {
  const Vec<T> one(1), half(0.5), root(M_SQRT1_2), peak(M_SQRT1_2 / 2 * M_2_SQRTPI);
  if (name == "relu")
    for (int64_t i = 0; i < h; ++i) to[i] = before[i] > 0 ? grad[i] : T(0);
  else if (name == "gelu")
    at::vec::map2<T>(
        [&](Vec<T> x, Vec<T> d) {
          return d * (half * (one + (root * x).erf()) + x * peak * (half * x * x).neg().exp());
        }, to, before, grad, h);
  else {
    at::vec::map3<T>(
        [&](Vec<T> g, Vec<T> v, Vec<T> d) {
          const Vec<T> s = one / (one + g.neg().exp());
          return d * v * s * (one + g * (one - s));
        }, to, before, before + h, grad, h);
    at::vec::map2<T>([&](Vec<T> g, Vec<T> d) { return d * g / (one + g.neg().exp()); }, to + h, before, grad, h);
  }
}

// Sorted rows `0..busy`, the rows of expert `e` from `start[e]` to `start[e + 1]`, cut into runs.
struct Runs {
  const int64_t *start, busy, number, block;

  Runs(const int64_t* start, int64_t experts)
      : start(start), busy(start[experts]), number(std::clamp<int64_t>(busy / LEAST, 1, at::get_num_threads())),
        block(std::min(busy, BLOCK)) {}

  int64_t begin(int64_t run) const { return busy * run / number; }

  // Calls `visit(run, expert, i, j)` for blocks of rows from `i` to `j` of one expert, runs in parallel.
  template <class F>
  void walk(F visit) const {
    at::parallel_for(0, number, 1, [&](int64_t from, int64_t to) {
      for (int64_t run = from; run < to; ++run)
        for (int64_t e = 0, i = begin(run), end = begin(run + 1); i < end; ++e) {
          const int64_t rows = std::min(end, start[e + 1]) - i, blocks = (rows + block - 1) / block;
          if (rows <= 0) continue;
          for (int64_t b = 0; b < blocks; ++b) visit(run, e, i + rows * b / blocks, i + rows * (b + 1) / blocks);
          i += rows;
        }
    });
  }
};

// Each token's sum of its rows, times their weights if there are any.
template <class T>
void sum_rows(const Tensor& sums, const Tensor& rows, const T* weight, const Tensor& order, const Tensor& offsets) {
  const int64_t tokens = sums.size(0), width = sums.size(1), total = order.size(0), busy = rows.size(0);
  const int64_t *first = get<int64_t>(offsets), *sorted = get<int64_t>(order);
  const T* from = get<T>(rows);
  T* to = set<T>(sums);
  std::vector<int64_t> place(total);
  for (int64_t i = 0; i < total; ++i) place[sorted[i]] = i;
  at::parallel_for(0, tokens, 256, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      T* sum = to + n * width;
      std::fill_n(sum, width, T(0));
      for (int64_t r = first[n]; r < (n + 1 < tokens ? first[n + 1] : total); ++r)
        if (place[r] < busy) add(sum, weight ? weight[r] : T(1), from + place[r] * width, width);
    }
  });
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Forward forward(const Tensor& x, const Tensor& expert, const Tensor& token, const Tensor& weight, const Tensor& offsets,
                const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, const string& activation,
                bool save) {
  const int64_t total = expert.size(0), experts = w1.size(0), d = w1.size(1), f = w1.size(2), h = w2.size(1),
                o = w2.size(2);
  Tensor order = at::empty_like(expert), starts = at::empty({experts + 1}, expert.options());
  int64_t *sorted = set<int64_t>(order), *start = set<int64_t>(starts);
  const int64_t *chosen = get<int64_t>(expert), *visitor = get<int64_t>(token);
  std::vector<int64_t> next(experts + 2, 0);  // counting sort
  for (int64_t r = 0; r < total; ++r) {
    TORCH_CHECK_INDEX(0 <= chosen[r] && chosen[r] <= experts, "no expert ", chosen[r]);
    ++next[chosen[r] + 1];
  }
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::copy_n(next.begin(), experts + 1, start);
  for (int64_t r = 0; r < total; ++r) sorted[next[chosen[r]]++] = r;

  const Runs runs(start, experts);
  Tensor y = at::empty({x.size(0), o}, x.options()), y_rows = at::empty({runs.busy, o}, x.options()),
         first = save ? at::empty({total, f}, x.options()) : at::empty({0}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "expert_mlp", [&] {
    using T = scalar_t;
    const int64_t all = runs.block * (d + f + h);
    const Tensor scratch = at::empty({runs.number, all}, x.options());
    runs.walk([&](int64_t run, int64_t e, int64_t i, int64_t j) {
      T *queue = set<T>(scratch) + run * all, *before = save ? set<T>(first) + i * f : queue + runs.block * d,
        *hidden = activation == "relu" ? before : queue + runs.block * (d + f), *y_row = set<T>(y_rows) + i * o;
      const T *from = get<T>(x), *bias1 = get<T>(b1) + e * f, *bias2 = get<T>(b2) + e * o;
      for (int64_t r = 0; r < j - i; ++r) {
        std::copy_n(from + visitor[sorted[i + r]] * d, d, queue + r * d);
        std::copy_n(bias1, f, before + r * f);
        std::copy_n(bias2, o, y_row + r * o);
      }
      product<T>(j - i, f, d, queue, false, get<T>(w1) + e * d * f, false, 1, before);
      for (int64_t r = 0; r < j - i; ++r) activate(activation, before + r * f, hidden + r * h, h);
      product<T>(j - i, o, h, hidden, false, get<T>(w2) + e * h * o, false, 1, y_row);
    });
    sum_rows(y, y_rows, get<T>(weight), order, offsets);
  });
  return {y, first, order, starts};
}

using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Backward backward(const Tensor& grad, const Tensor& x, const Tensor& expert, const Tensor& token, const Tensor& weight,
                  const Tensor& offsets, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2,
                  const Tensor& first, const Tensor& order, const Tensor& starts, const string& activation,
                  bool need_weights) {
  const int64_t experts = w1.size(0), d = w1.size(1), f = w1.size(2), h = w2.size(1), o = w2.size(2);
  const int64_t *visitor = get<int64_t>(token), *sorted = get<int64_t>(order), *start = get<int64_t>(starts);
  const Runs runs(start, experts);
  const auto like = [&](const Tensor& t) { return need_weights ? at::empty_like(t) : t.new_empty({0}); };
  const Tensor grads[] = {like(w1), like(w2), like(b1), like(b2)};
  const int64_t sizes[] = {d * f, h * o, f, o};
  const int parts = need_weights ? 4 : 0;
  const Tensor grad_x = at::empty_like(x), grad_weight = at::zeros_like(weight),
               x_rows = at::empty({runs.busy, d}, x.options());

  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "expert_mlp_backward", [&] {
    using T = scalar_t;
    const int64_t block = runs.block, buffers = block * (d + o + 2 * h + f),
                  all = buffers + (need_weights ? d * f + h * o + f + o : 0);  // and the share that is kept apart
    const Tensor scratch = at::empty({runs.number, all}, x.options());
    runs.walk([&](int64_t run, int64_t e, int64_t i, int64_t j) {
      T *queue = set<T>(scratch) + run * all, *g = queue + block * d, *grad_hidden = g + block * o,
        *again = grad_hidden + block * h, *wide = again + block * h, *share = wide + block * f, *to[4];
      const T beta = i == std::max(runs.begin(run), start[e]) ? 0 : 1;  // the first block overwrites
      for (int p = 0; p < parts; share += sizes[p++]) {
        to[p] = start[e] < runs.begin(run) ? share : set<T>(grads[p]) + e * sizes[p];
        if (beta == 0 && p > 1) std::fill_n(to[p], sizes[p], T(0));
      }
      const T *before = get<T>(first) + i * f, *hidden = activation == "relu" ? before : again;
      T* grad_before = activation == "swiglu" ? wide : grad_hidden;
      const T *from_x = get<T>(x), *from_grad = get<T>(grad), *bias2 = get<T>(b2) + e * o, *factors = get<T>(weight);
      T* grad_factors = set<T>(grad_weight);
      for (int64_t r = 0; r < j - i; ++r) {
        std::copy_n(from_x + visitor[sorted[i + r]] * d, d, queue + r * d);
        std::copy_n(from_grad + visitor[sorted[i + r]] * o, o, g + r * o);
      }
      product<T>(j - i, h, o, g, false, get<T>(w2) + e * h * o, true, 0, grad_hidden);
      for (int64_t r = 0; r < j - i; ++r) {
        T *g_row = g + r * o, *hidden_row = grad_hidden + r * h, *before_row = grad_before + r * f;
        if (hidden == again) activate(activation, before + r * f, again + r * h, h);
        grad_factors[sorted[i + r]] = dot(hidden_row, hidden + r * h, h) + dot<T>(g_row, bias2, o);
        const T factor = factors[sorted[i + r]];
        for (int64_t c = 0; c < h; ++c) hidden_row[c] *= factor;
        for (int64_t c = 0; c < o; ++c) g_row[c] *= factor;
        activate_backward(activation, before + r * f, hidden_row, before_row, h);
        if (parts) add<T>(to[2], 1, before_row, f), add<T>(to[3], 1, g_row, o);
      }
      product<T>(j - i, d, f, grad_before, false, get<T>(w1) + e * d * f, true, 0, set<T>(x_rows) + i * d);
      if (parts) product<T>(d, f, j - i, queue, true, grad_before, false, beta, to[0]);
      if (parts) product<T>(h, o, j - i, hidden, true, g, false, beta, to[1]);
    });
    sum_rows<T>(grad_x, x_rows, nullptr, order, offsets);
    for (int p = 0; p < parts; ++p)
      at::parallel_for(0, experts, 1, [&](int64_t from, int64_t to) {
        for (int64_t e = from; e < to; ++e)
          if (start[e] == start[e + 1]) std::fill_n(set<T>(grads[p]) + e * sizes[p], sizes[p], T(0));
      });
    for (int64_t run = 1; run < runs.number; ++run) {
      const int64_t e = std::upper_bound(start, start + experts, runs.begin(run)) - start - 1;
      const T* share = get<T>(scratch) + run * all + buffers;
      for (int p = 0; p < parts && start[e] < runs.begin(run); share += sizes[p++])
        add<T>(set<T>(grads[p]) + e * sizes[p], 1, share, sizes[p]);
    }
  });
  return {grad_x, grad_weight, grads[0], grads[2], grads[1], grads[3]};
}

}  // namespace

TORCH_LIBRARY(reverie_native, library) {
  library.def("expert_mlp(Tensor x, Tensor expert, Tensor token, Tensor weight, Tensor offsets, Tensor w1, Tensor b1, "
              "Tensor w2, Tensor b2, str activation, bool save) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("expert_mlp_backward(Tensor grad, Tensor x, Tensor expert, Tensor token, Tensor weight, Tensor offsets, "
              "Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor first, Tensor order, Tensor starts, str activation, "
              "bool need_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(reverie_native, CPU, library) {  // any other device is refused by torch
  library.impl("expert_mlp", &forward);
  library.impl("expert_mlp_backward", &backward);
}
