// What surrounds the products of a small video model, for one core; in torch it takes about as long as they do.
// All arrays are contiguous fp32. See faster_cpu.py.

#include <math.h>

#define MOST_EXPONENT 80.0f

// By tanh, as x · sigmoid: (1 + tanh u) / 2 = sigmoid 2u.
void gelu(const float *restrict x, float *restrict y, long count) {
    for (long i = 0; i < count; i++) {
        float twice = 1.5957691216f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        y[i] = x[i] / (1.0f + expf(fminf(MOST_EXPONENT, -twice)));
    }
}

void rms_norm(const float *restrict x, const float *restrict weight, float *restrict y, long rows, long width,
              float epsilon) {
    for (long row = 0; row < rows; row++, x += width, y += width) {
        float squares = 0.0f;
        for (long i = 0; i < width; i++) squares += x[i] * x[i];
        float scale = 1.0f / sqrtf(squares / width + epsilon);
        for (long i = 0; i < width; i++) y[i] = x[i] * scale * weight[i];
    }
}

// weight and bias may be null, both.
void layer_norm(const float *restrict x, const float *restrict weight, const float *restrict bias, float *restrict y,
                long rows, long width, float epsilon) {
    for (long row = 0; row < rows; row++, x += width, y += width) {
        float sum = 0.0f, squares = 0.0f;
        for (long i = 0; i < width; i++) sum += x[i];
        float mean = sum / width;
        for (long i = 0; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
        float scale = 1.0f / sqrtf(squares / width + epsilon);
        for (long i = 0; i < width; i++) y[i] = (x[i] - mean) * scale;
        if (weight)
            for (long i = 0; i < width; i++) y[i] = y[i] * weight[i] + bias[i];
    }
}

// x, y [batch, rows, heads, 2 pairs]; matrices [batch or 1, rows, 1, pairs, 2, 2].
void rotate(const float *restrict x, const float *restrict matrices, float *restrict y, long batch, long rows,
            long heads, long pairs, long matrices_batch) {
    for (long place = 0; place < batch * rows; place++) {
        const float *m = matrices + 4 * pairs * (matrices_batch == 1 ? place % rows : place);
        for (long head = 0; head < heads; head++, x += 2 * pairs, y += 2 * pairs)
            for (long p = 0; p < pairs; p++) {
                float first = x[2 * p], second = x[2 * p + 1];
                y[2 * p] = m[4 * p] * first + m[4 * p + 1] * second;
                y[2 * p + 1] = m[4 * p + 2] * first + m[4 * p + 3] * second;
            }
    }
}
