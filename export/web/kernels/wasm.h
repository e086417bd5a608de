// Types and declarations that all kernels share. There is no C library.

#pragma once

#include <stdint.h>
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name))) name
// For what takes little of the time.
#define SMALL __attribute__((minsize))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

typedef v128_t f32x4;

// a * b + c. The relaxed instruction rounds once or twice, whichever the machine does faster.
#ifdef __wasm_relaxed_simd__
#define MADD(a, b, c) wasm_f32x4_relaxed_madd(a, b, c)
#else
#define MADD(a, b, c) wasm_f32x4_add(wasm_f32x4_mul(a, b), c)
#endif

void *memset(void *to, int value, unsigned long bytes);
void *memcpy(void *to, const void *from, unsigned long bytes);

f32x4 exp4(f32x4 x);
f32x4 sigmoid4(f32x4 x);
