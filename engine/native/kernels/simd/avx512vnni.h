// AVX-512 with VNNI: avx512.h, whose screen multiplies bytes in one instruction where __AVX512VNNI__ is
// defined.
#pragma once

#include "kernels/simd/avx512.h"
