// The selective scan on a CPU, forward and backward, without the (B, L, D, N) tensors.
//
//     h_t = decay_t h_{t-1} + dt_t B_t u_t,    y_t = C_t h_t + D u_t,    decay_t = exp(dt_t A)  or  dt_t A  ("product", A given as exp(A))
//
// Vectors run over channels d; the N states of a vector of channels stay in registers while time runs, so that nothing but u, dt, B, C is
// read and nothing but y is written. The work is divided among threads by sample and group of channels, in the same way for any number of
// threads, so that results do not depend on it. Steps that the mask leaves out are not visited.
//
// A C interface and no header of PyTorch: it compiles in seconds.

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t BLOCKS = 8;  // vectors of channels in a group
constexpr int64_t CHUNK = 16;  // steps between two saved states: what backward recomputes at once stays in the cache

template <typename T>
struct Problem {
  const T *u, *dt, *A, *B, *C, *D;  // (B, L, D), (B, L, D), (N, D), (B, L, N), (B, L, N), (D): the last dimension is contiguous
  Steps at;
  int64_t batch, length, channels, states;
  const int64_t* strides;  // of batch and time: u, dt, B, C
  bool exponential;

  int64_t chunks() const { return (length + CHUNK - 1) / CHUNK; }
  int64_t groups() const { return (channels + width() - 1) / width(); }
  static constexpr int64_t width() { return BLOCKS * Lanes<T>::count; }
  const T* u_at(int64_t b, int64_t t) const { return u + b * strides[0] + t * strides[1]; }
  const T* dt_at(int64_t b, int64_t t) const { return dt + b * strides[2] + t * strides[3]; }
  const T* B_at(int64_t b, int64_t t) const { return B + b * strides[4] + t * strides[5]; }
  const T* C_at(int64_t b, int64_t t) const { return C + b * strides[6] + t * strides[7]; }
};

// Rates of one vector of channels, so that decay = exp2(dt rate), or dt rate for "product".
template <typename T>
inline void load_rates(const Problem<T>& p, int64_t d, int64_t valid, int64_t states, Vector<T>* rates) {
  const T log2e = T(1.4426950408889634);
  for (int64_t n = 0; n < states; ++n) {
    rates[n] = load(p.A + n * p.channels + d, valid);
    if (p.exponential) rates[n] *= broadcast(log2e);
  }
}

// STATES: N where it is known to the compiler, which then keeps the states in registers; 0: any.
template <typename T, int STATES, bool EXPONENTIAL>
void forward(const Problem<T>& p, T* y, T* saved) {
  const int64_t N = STATES ? STATES : p.states, groups = p.groups();
#pragma omp parallel
  {
    std::vector<Vector<T>> rates_(N), h_(N);
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < p.batch * groups; ++unit) {
      const int64_t b = unit / groups, first = (unit % groups) * p.width();
      for (int64_t d = first; d < std::min(first + p.width(), p.channels); d += Lanes<T>::count) {
        const int64_t valid = std::min(Lanes<T>::count, p.channels - d);
        Vector<T> local_rates[STATES ? STATES : 1], local_h[STATES ? STATES : 1];
        Vector<T>*rates = STATES ? local_rates : rates_.data(), *h = STATES ? local_h : h_.data();
        load_rates(p, d, valid, N, rates);
        for (int64_t n = 0; n < N; ++n) h[n] = Vector<T>{};
        const Vector<T> skip = load(p.D + d, valid);
        for (int64_t step = 0; step < p.length; ++step) {
          if (saved != nullptr && step % CHUNK == 0) {
            T* to = saved + (b * p.chunks() + step / CHUNK) * N * p.channels + d;
            for (int64_t n = 0; n < N; ++n) store(to + n * p.channels, h[n], valid);
          }
          const int64_t t = p.at.time(step);
          T* out = y + (b * p.length + t) * p.channels + d;
          if (!p.at.kept(b, t)) {
            store(out, Vector<T>{}, valid);
            continue;
          }
          const Vector<T> u = load(p.u_at(b, t) + d, valid), dt = load(p.dt_at(b, t) + d, valid), x = dt * u;
          const T *B = p.B_at(b, t), *C = p.C_at(b, t);
          Vector<T> sum = skip * u;
#pragma GCC unroll 16
          for (int64_t n = 0; n < N; ++n) {
            Vector<T> decay = dt * rates[n];
            if (EXPONENTIAL) decay = exp2(decay);
            h[n] = decay * h[n] + x * broadcast(B[n]);
            sum += h[n] * broadcast(C[n]);
          }
          store(out, sum, valid);
        }
      }
    }
  }
}

// Gradients; those of A and D come for each sample, those of B and C for each group of channels, to be summed by the caller.
template <typename T>
struct Gradients {
  T *u, *dt;  // (B, L, D)
  T* A;       // (B, N, D)
  T *B, *C;   // (groups, B, L, N)
  T* D;       // (B, D)
};

template <typename T, int STATES, bool EXPONENTIAL>
void backward(const Problem<T>& p, const T* saved, const T* grad_y, const Gradients<T>& grad) {
  const int64_t N = STATES ? STATES : p.states, groups = p.groups();
#pragma omp parallel
  {
    // Of a chunk of one vector of channels: states h (first: the one before the chunk) and decays.
    std::vector<Vector<T>> h((CHUNK + 1) * N), decay(CHUNK * N), rates(N);
    // Of a chunk of the group: gradients of B and C, lane by lane. Of the group: gradients of A, D, and what comes from later steps.
    std::vector<Vector<T>> grad_B(CHUNK * N), grad_C(CHUNK * N), grad_A(BLOCKS * N), grad_D(BLOCKS), carry(BLOCKS * N);
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < p.batch * groups; ++unit) {
      const int64_t b = unit / groups, group = unit % groups, first = group * p.width();
      const int64_t blocks = (std::min(p.width(), p.channels - first) + Lanes<T>::count - 1) / Lanes<T>::count;
      std::fill(grad_A.begin(), grad_A.end(), Vector<T>{});
      std::fill(grad_D.begin(), grad_D.end(), Vector<T>{});
      std::fill(carry.begin(), carry.end(), Vector<T>{});
      for (int64_t chunk = p.chunks() - 1; chunk >= 0; --chunk) {
        const int64_t begin = chunk * CHUNK, steps = std::min(CHUNK, p.length - begin);
        std::fill(grad_B.begin(), grad_B.end(), Vector<T>{});
        std::fill(grad_C.begin(), grad_C.end(), Vector<T>{});
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t d = first + block * Lanes<T>::count, valid = std::min(Lanes<T>::count, p.channels - d);
          load_rates(p, d, valid, N, rates.data());
          const Vector<T> skip = load(p.D + d, valid);
          const T* from = saved + (b * p.chunks() + chunk) * N * p.channels + d;
          for (int64_t n = 0; n < N; ++n) h[n] = load(from + n * p.channels, valid);
          for (int64_t i = 0; i < steps; ++i) {
            const int64_t t = p.at.time(begin + i);
            const Vector<T>* before = &h[i * N];
            Vector<T>*after = &h[(i + 1) * N], *decays = &decay[i * N];
            if (!p.at.kept(b, t)) {
              std::copy(before, before + N, after);
              continue;
            }
            const Vector<T> u = load(p.u_at(b, t) + d, valid), dt = load(p.dt_at(b, t) + d, valid), x = dt * u;
            const T* B = p.B_at(b, t);
#pragma GCC unroll 16
            for (int64_t n = 0; n < N; ++n) {
              const Vector<T> product = dt * rates[n];
              decays[n] = EXPONENTIAL ? exp2(product) : product;
              after[n] = decays[n] * before[n] + x * broadcast(B[n]);
            }
          }
          Vector<T>*to_before = &carry[block * N], *to_A = &grad_A[block * N];
          for (int64_t i = steps - 1; i >= 0; --i) {
            const int64_t t = p.at.time(begin + i), out = (b * p.length + t) * p.channels + d;
            if (!p.at.kept(b, t)) {
              store(grad.u + out, Vector<T>{}, valid);
              store(grad.dt + out, Vector<T>{}, valid);
              continue;
            }
            const Vector<T> u = load(p.u_at(b, t) + d, valid), dt = load(p.dt_at(b, t) + d, valid), x = dt * u;
            const Vector<T> gy = load(grad_y + out, valid);
            const T *B = p.B_at(b, t), *C = p.C_at(b, t);
            const Vector<T>*before = &h[i * N], *after = &h[(i + 1) * N], *decays = &decay[i * N];
            Vector<T>*to_B = &grad_B[i * N], *to_C = &grad_C[i * N];
            Vector<T> to_x{}, to_dt{};
#pragma GCC unroll 16
            for (int64_t n = 0; n < N; ++n) {
              const Vector<T> to_h = to_before[n] + gy * broadcast(C[n]);
              to_C[n] += gy * after[n];
              to_B[n] += x * to_h;
              to_x += to_h * broadcast(B[n]);
              to_before[n] = decays[n] * to_h;
              const Vector<T> to_product = (EXPONENTIAL ? to_before[n] : to_h) * before[n];  // of dt A
              to_A[n] += to_product * dt;
              to_dt += to_product * rates[n];
            }
            if (EXPONENTIAL) to_dt *= broadcast(T(0.6931471805599453));  // the rates are A / ln 2
            store(grad.u + out, dt * to_x + skip * gy, valid);
            store(grad.dt + out, to_dt + u * to_x, valid);
            grad_D[block] += gy * u;
          }
        }
        for (int64_t i = 0; i < steps; ++i) {
          const int64_t out = ((group * p.batch + b) * p.length + p.at.time(begin + i)) * N;
          for (int64_t n = 0; n < N; ++n) {
            grad.B[out + n] = sum<T>(grad_B[i * N + n]);
            grad.C[out + n] = sum<T>(grad_C[i * N + n]);
          }
        }
      }
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t d = first + block * Lanes<T>::count, valid = std::min(Lanes<T>::count, p.channels - d);
        for (int64_t n = 0; n < N; ++n) store(grad.A + (b * N + n) * p.channels + d, grad_A[block * N + n], valid);
        store(grad.D + b * p.channels + d, grad_D[block], valid);
      }
    }
  }
}

template <typename T>
Problem<T> problem(const void* const* inputs, const uint8_t* mask, const int64_t* sizes, bool exponential, bool reverse) {
  auto at = [&](int index) { return static_cast<const T*>(inputs[index]); };
  const Steps steps{mask, sizes[1], reverse};
  return {at(0), at(1), at(2), at(3), at(4), at(5), steps, sizes[0], sizes[1], sizes[2], sizes[3], sizes + 4, exponential};
}

template <typename T>
void run_forward(const Problem<T>& p, void* y, void* saved) {
  auto run = p.exponential ? (p.states == 16 ? forward<T, 16, true> : forward<T, 0, true>) : forward<T, 0, false>;
  run(p, static_cast<T*>(y), static_cast<T*>(saved));
}

template <typename T>
void run_backward(const Problem<T>& p, const void* saved, const void* grad_y, void* const* grads) {
  auto at = [&](int index) { return static_cast<T*>(grads[index]); };
  auto run = p.exponential ? (p.states == 16 ? backward<T, 16, true> : backward<T, 0, true>) : backward<T, 0, false>;
  run(p, static_cast<const T*>(saved), static_cast<const T*>(grad_y), {at(0), at(1), at(2), at(3), at(4), at(5)});
}

}  // namespace

extern "C" {

// chunks and channels of a group, for the shapes of `saved` and of the gradients of B and C
int64_t scan_chunk() { return CHUNK; }
int64_t scan_group(bool is_double) { return is_double ? Problem<double>::width() : Problem<float>::width(); }

// inputs: u, dt, A, B, C, D. sizes: B, L, D, N, then the strides of batch and time of u, dt, B, C. saved: (B, chunks, N, D) or null.
void scan_forward(bool is_double, const void* const* inputs, const uint8_t* mask, const int64_t* sizes, bool exponential, bool reverse,
                  void* y, void* saved) {
  if (is_double)
    run_forward(problem<double>(inputs, mask, sizes, exponential, reverse), y, saved);
  else
    run_forward(problem<float>(inputs, mask, sizes, exponential, reverse), y, saved);
}

// grad_y: (B, L, D) contiguous. grads: of u, dt, A, B, C, D with the shapes of `Gradients`.
void scan_backward(bool is_double, const void* const* inputs, const uint8_t* mask, const int64_t* sizes, bool exponential, bool reverse,
                   const void* saved, const void* grad_y, void* const* grads) {
  if (is_double)
    run_backward(problem<double>(inputs, mask, sizes, exponential, reverse), saved, grad_y, grads);
  else
    run_backward(problem<float>(inputs, mask, sizes, exponential, reverse), saved, grad_y, grads);
}
}
