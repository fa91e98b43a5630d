// SiLU of a causal depthwise convolution, in the (B, L, D) layout of the scan, forward and backward.
//
//     a_t = bias + sum_k weight_k x_(t - (K - 1) + k),    y_t = a_t sigmoid(a_t)
//
// Steps that the mask leaves out count as zeros in the sum, and their y is zero.

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace {

template <typename T>
struct Convolution {
  const T *x, *weight, *bias;  // (B, L, D) with a contiguous last dimension, (K, D), (D)
  Steps at;
  int64_t batch, length, channels, kernel, batch_stride, time_stride;

  int64_t blocks() const { return (channels + Lanes<T>::count - 1) / Lanes<T>::count; }

  // The kept inputs of one vector of channels in the order of steps, K - 1 zeros before the first.
  void gather(int64_t b, int64_t d, int64_t valid, Vector<T>* inputs) const {
    std::fill(inputs, inputs + kernel - 1, Vector<T>{});
    for (int64_t step = 0; step < length; ++step) {
      const int64_t t = at.time(step);
      inputs[kernel - 1 + step] = at.kept(b, t) ? load(x + b * batch_stride + t * time_stride + d, valid) : Vector<T>{};
    }
  }

  Vector<T> before_activation(const Vector<T>* inputs, const Vector<T>* weights, const Vector<T>& bias) const {
    Vector<T> a = bias;
    for (int64_t k = 0; k < kernel; ++k) a += weights[k] * inputs[k];
    return a;
  }
};

template <typename T>
void forward(const Convolution<T>& c, T* y) {
  const int64_t blocks = c.blocks();
#pragma omp parallel
  {
    std::vector<Vector<T>> inputs(c.kernel - 1 + c.length), weights(c.kernel);
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < c.batch * blocks; ++unit) {
      const int64_t b = unit / blocks, d = unit % blocks * Lanes<T>::count, valid = std::min(Lanes<T>::count, c.channels - d);
      c.gather(b, d, valid, inputs.data());
      for (int64_t k = 0; k < c.kernel; ++k) weights[k] = load(c.weight + k * c.channels + d, valid);
      const Vector<T> bias = load(c.bias + d, valid);
      for (int64_t step = 0; step < c.length; ++step) {
        const int64_t t = c.at.time(step);
        Vector<T> a{};
        if (c.at.kept(b, t)) {
          a = c.before_activation(&inputs[step], weights.data(), bias);
          a *= sigmoid<T>(a);
        }
        store(y + (b * c.length + t) * c.channels + d, a, valid);
      }
    }
  }
}

// Gradients of x (B, L, D) and, for each sample, of weight (B, K, D) and bias (B, D).
template <typename T>
void backward(const Convolution<T>& c, const T* grad_y, T* grad_x, T* grad_weight, T* grad_bias) {
  const int64_t blocks = c.blocks();
#pragma omp parallel
  {
    std::vector<Vector<T>> inputs(c.kernel - 1 + c.length), weights(c.kernel), to_weights(c.kernel);
    std::vector<Vector<T>> to_a(c.length + c.kernel - 1);  // gradients of a; zeros after the last
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < c.batch * blocks; ++unit) {
      const int64_t b = unit / blocks, d = unit % blocks * Lanes<T>::count, valid = std::min(Lanes<T>::count, c.channels - d);
      c.gather(b, d, valid, inputs.data());
      for (int64_t k = 0; k < c.kernel; ++k) weights[k] = load(c.weight + k * c.channels + d, valid);
      const Vector<T> bias = load(c.bias + d, valid), one = broadcast(T(1));
      std::fill(to_weights.begin(), to_weights.end(), Vector<T>{});
      Vector<T> to_bias{};
      for (int64_t step = 0; step < c.length; ++step) {
        const int64_t t = c.at.time(step);
        to_a[step] = Vector<T>{};
        if (!c.at.kept(b, t)) continue;
        const Vector<T> a = c.before_activation(&inputs[step], weights.data(), bias), s = sigmoid<T>(a);
        const Vector<T> gradient = load(grad_y + (b * c.length + t) * c.channels + d, valid) * s * (one + a * (one - s));
        to_a[step] = gradient;
        to_bias += gradient;
        for (int64_t k = 0; k < c.kernel; ++k) to_weights[k] += gradient * inputs[step + k];
      }
      for (int64_t step = 0; step < c.length; ++step) {
        const int64_t t = c.at.time(step);
        Vector<T> to_x{};
        if (c.at.kept(b, t))
          for (int64_t k = 0; k < c.kernel; ++k) to_x += weights[k] * to_a[step + c.kernel - 1 - k];
        store(grad_x + (b * c.length + t) * c.channels + d, to_x, valid);
      }
      for (int64_t k = 0; k < c.kernel; ++k) store(grad_weight + (b * c.kernel + k) * c.channels + d, to_weights[k], valid);
      store(grad_bias + b * c.channels + d, to_bias, valid);
    }
  }
}

template <typename T>
Convolution<T> convolution(const void* const* inputs, const uint8_t* mask, const int64_t* sizes, bool reverse) {
  auto at = [&](int index) { return static_cast<const T*>(inputs[index]); };
  return {at(0), at(1), at(2), Steps{mask, sizes[1], reverse}, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
}

}  // namespace

extern "C" {

// inputs: x, weight, bias. sizes: B, L, D, K, then the strides of batch and time of x. y: (B, L, D).
void conv_forward(bool is_double, const void* const* inputs, const uint8_t* mask, const int64_t* sizes, bool reverse, void* y) {
  if (is_double)
    forward(convolution<double>(inputs, mask, sizes, reverse), static_cast<double*>(y));
  else
    forward(convolution<float>(inputs, mask, sizes, reverse), static_cast<float*>(y));
}

// grad_y: (B, L, D) contiguous. grads: of x (B, L, D), weight (B, K, D), bias (B, D).
void conv_backward(bool is_double, const void* const* inputs, const uint8_t* mask, const int64_t* sizes, bool reverse, const void* grad_y,
                   void* const* grads) {
  auto run = [&](auto type) {
    using T = decltype(type);
    auto at = [&](int index) { return static_cast<T*>(grads[index]); };
    backward(convolution<T>(inputs, mask, sizes, reverse), static_cast<const T*>(grad_y), at(0), at(1), at(2));
  };
  is_double ? run(double{}) : run(float{});
}
}
