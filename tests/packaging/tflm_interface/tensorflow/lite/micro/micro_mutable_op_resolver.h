// What packages use of TensorFlow Lite Micro, declared anew, so that they compile where its source is not.
#pragma once

#include <cstddef>
#include <cstdint>

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };

union TfLitePtrUnion {
  int32_t *i32;
  float *f;
  char *raw;
  int8_t *int8;
};

struct TfLiteTensor {
  TfLitePtrUnion data;
  size_t bytes;
};

namespace tflite {

class MicroOpResolver {};

template <unsigned int tOpCount>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
#define ADDS(name) \
  TfLiteStatus Add##name() { return ++added_ <= tOpCount ? kTfLiteOk : kTfLiteError; }
#include "resolver_methods.inc"
#undef ADDS

 private:
  unsigned int added_ = 0;
};

}  // namespace tflite
