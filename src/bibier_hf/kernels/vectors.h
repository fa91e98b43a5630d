// Vectors of channels, as wide as the machine's registers: the vector extension of GCC and Clang, no header of PyTorch.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif


namespace {

template <typename T>
struct Lanes {
  typedef T type __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int64_t count = VECTOR_BYTES / sizeof(T);
};
template <typename T>
using Vector = typename Lanes<T>::type;

template <typename T>
inline Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

template <typename T>
inline Vector<T> load(const T* from, int64_t valid) {
  Vector<T> v{};
  if (valid == Lanes<T>::count)
    std::memcpy(&v, from, sizeof(v));
  else
    std::memcpy(&v, from, valid * sizeof(T));
  return v;
}

template <typename T>
inline void store(T* to, const Vector<T>& v, int64_t valid) {
  if (valid == Lanes<T>::count)
    std::memcpy(to, &v, sizeof(v));
  else
    std::memcpy(to, &v, valid * sizeof(T));
}

template <typename T>
inline T sum(const Vector<T>& v) {
  T total = 0;
  for (int64_t lane = 0; lane < Lanes<T>::count; ++lane) total += v[lane];
  return total;
}

// 2^x: the nearest whole power, times a polynomial (relative error 2e-9 before rounding) on -0.5..0.5; exactly 1 at 0, and 2^-126 for less.
inline Vector<float> exp2(Vector<float> x) {
  typedef int32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
  const Vector<float> lowest = broadcast(-126.0f), to_whole = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to whole numbers
  x = x > lowest ? x : lowest;
  const Vector<float> shifted = x + to_whole;
  const Vector<float> r = x - (shifted - to_whole);
  Vector<float> p = broadcast(1.534581242594868e-4f);
  p = p * r + broadcast(1.339993090368807e-3f);
  p = p * r + broadcast(9.618489071726799e-3f);
  p = p * r + broadcast(5.550328642129898e-2f);
  p = p * r + broadcast(2.402264624834061e-1f);
  p = p * r + broadcast(6.931471824645996e-1f);
  p = p * r + broadcast(1.0f);
  return (Vector<float>)((Bits)p + ((Bits)shifted << 23));
}

inline Vector<double> exp2(Vector<double> x) {
  for (int64_t lane = 0; lane < Lanes<double>::count; ++lane) x[lane] = std::exp2(x[lane]);
  return x;
}

// 1 / (1 + e^-x)
template <typename T>
inline Vector<T> sigmoid(const Vector<T>& x) {
  const Vector<T> highest = broadcast(T(126)), power = x * broadcast(T(-1.4426950408889634));
  return broadcast(T(1)) / (broadcast(T(1)) + exp2(power < highest ? power : highest));
}

// Which steps of (B, L) count, and in which direction time runs.
struct Steps {
  const uint8_t* mask;  // (B, L) contiguous, or null: every step
  int64_t length;
  bool reverse;

  int64_t time(int64_t step) const { return reverse ? length - 1 - step : step; }
  bool kept(int64_t b, int64_t t) const { return mask == nullptr || mask[b * length + t]; }
};

}  // namespace
