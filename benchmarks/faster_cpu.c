// What surrounds the products of a small video model, for one core; in torch it takes about as long as they do.
// All arrays are contiguous fp32. Then the products themselves from bfloat16 factors, by the CPU's matrix unit where it
// has one. See faster_cpu.py.

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

// y = base + x · scale for x [batch, rows, width]. From one of the batch to the next base and scale go on by so many
// floats, 0 where all have the same; within it base goes on by base_row, scale is one row.
void modulate(const float *restrict base, const float *restrict x, const float *restrict scale, float *restrict y,
              long batch, long rows, long width, long base_step, long base_row, long scale_step) {
    for (long b = 0; b < batch; b++)
        for (long row = 0; row < rows; row++, x += width, y += width) {
            const float *from = base + b * base_step + row * base_row, *by = scale + b * scale_step;
            for (long i = 0; i < width; i++) y[i] = from[i] + x[i] * by[i];
        }
}

#ifdef __AMX_BF16__
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// Tiles have 16 rows of 64 bytes: 16×16 sums, 16×32 left factors, or 32×16 right ones, pairs of which lie side by side.
// Right factors are packed once: tiles along the depth after one another, then the next 16 columns.
enum { TILE = 16, DEPTH = 32, ROWS = 2 * TILE, COLUMNS = 2 * TILE, MOST_DEPTH = 4096, MOST_KEYS = 2048, MOST_WIDTH = 128 };

// Whether this process may use the unit; the system wants to be asked.
int may_use_tiles(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

static void configure_tiles(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) shape.bytes[tile] = 64, shape.rows[tile] = TILE;
    _tile_loadconfig(&shape);
}

static __m512i rounded(const float *low, const float *high) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(high), _mm512_loadu_ps(low));
}

// Left factors: x [rows, depth], its rows so many floats apart; what is missing to 32 rows becomes 0.
static void round_rows(const float *x, long x_row, uint16_t *to, long rows, long depth) {
    for (long i = 0; i < rows; i++)
        for (long k = 0; k < depth; k += DEPTH)
            _mm512_storeu_si512(to + i * depth + k, rounded(x + i * x_row + k, x + i * x_row + k + TILE));
    if (rows < ROWS) memset(to + rows * depth, 0, (ROWS - rows) * depth * sizeof *to);
}

// Right factors from the rows of w [columns, depth].
void pack_rows(const float *w, long w_row, uint16_t *packed, long columns, long depth) {
    __m512i places = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                        _mm512_set1_epi32(TILE));
    for (long n = 0; n < columns; n++)
        for (long k = 0; k < depth; k += DEPTH)
            _mm512_i32scatter_epi32(packed + n / TILE * TILE * depth + k * TILE + n % TILE * 2, places,
                                    rounded(w + n * w_row + k, w + n * w_row + k + TILE), 4);
}

// Right factors from the columns of v [depth, columns].
static void pack_columns(const float *v, long v_row, uint16_t *packed, long columns, long depth) {
    uint16_t order[DEPTH];
    for (int i = 0; i < TILE; i++) order[2 * i] = i, order[2 * i + 1] = TILE + i;
    __m512i side_by_side = _mm512_loadu_si512(order);
    for (long k = 0; k < depth; k += 2)
        for (long n = 0; n < columns; n += TILE)
            _mm512_storeu_si512(packed + n * depth + k * TILE,
                                _mm512_permutexvar_epi16(side_by_side, rounded(v + k * v_row + n, v + (k + 1) * v_row + n)));
}

// to [32, 32] = left [32, depth] · 32 columns of right, plus `start` [32] in each row.
static void four_tiles(const uint16_t *left, const uint16_t *right, const float *start, float *to, long to_row, long depth) {
    _tile_loadd(0, start, 0);
    _tile_loadd(1, start + TILE, 0);
    _tile_loadd(2, start, 0);
    _tile_loadd(3, start + TILE, 0);
    for (long k = 0; k < depth; k += DEPTH) {
        _tile_loadd(4, left + k, depth * sizeof *left);
        _tile_loadd(5, left + TILE * depth + k, depth * sizeof *left);
        _tile_loadd(6, right + k * TILE, 64);
        _tile_loadd(7, right + depth * TILE + k * TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, to, to_row * sizeof *to);
    _tile_stored(1, to + TILE, to_row * sizeof *to);
    _tile_stored(2, to + TILE * to_row, to_row * sizeof *to);
    _tile_stored(3, to + TILE * to_row + TILE, to_row * sizeof *to);
}

// y = x · weightᵀ + bias; x [rows, depth], y [rows, columns], weight as `pack_rows` has packed it. columns and depth are
// multiples of 32, depth at most 4096.
void linear_by_tiles(const float *x, const uint16_t *weight, const float *bias, float *y, long rows, long columns,
                     long depth) {
    static uint16_t left[ROWS * MOST_DEPTH] __attribute__((aligned(64)));
    static float beyond[ROWS * COLUMNS] __attribute__((aligned(64)));
    configure_tiles();
    for (long row = 0; row < rows; row += ROWS) {
        long count = rows - row < ROWS ? rows - row : ROWS;
        round_rows(x + row * depth, depth, left, count, depth);
        for (long n = 0; n < columns; n += COLUMNS) {
            float *own = y + row * columns + n;
            if (count == ROWS) {
                four_tiles(left, weight + n * depth, bias + n, own, columns, depth);
                continue;
            }
            four_tiles(left, weight + n * depth, bias + n, beyond, COLUMNS, depth);
            for (long i = 0; i < count; i++) memcpy(own + i * columns, beyond + i * COLUMNS, COLUMNS * sizeof(float));
        }
    }
    _tile_release();
}

static __m512 two_to_the(__m512 x) {
    __m512 whole = _mm512_roundscale_ps(x, 0), part = _mm512_sub_ps(x, whole);
    __m512 value = _mm512_fmadd_ps(part, _mm512_set1_ps(0.0096181291f), _mm512_set1_ps(0.0555041087f));
    value = _mm512_fmadd_ps(part, value, _mm512_set1_ps(0.2402265070f));
    value = _mm512_fmadd_ps(part, value, _mm512_set1_ps(0.6931471806f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(part, value, _mm512_set1_ps(1.0f)), whole);
}

// By tanh, as `gelu`, and rounded.
static void round_gelu(const float *x, uint16_t *to, long count) {
    __m512 one = _mm512_set1_ps(1.0f), cubed = _mm512_set1_ps(0.044715f), twos = _mm512_set1_ps(-2.3022082f);
    for (long i = 0; i < count; i += DEPTH) {
        __m512 parts[2];
        for (int half = 0; half < 2; half++) {
            __m512 own = _mm512_loadu_ps(x + i + half * TILE), cube = _mm512_mul_ps(_mm512_mul_ps(own, own), own);
            __m512 exponent = _mm512_mul_ps(_mm512_fmadd_ps(cubed, cube, own), twos);
            __m512 power = two_to_the(_mm512_min_ps(exponent, _mm512_set1_ps(MOST_EXPONENT)));
            parts[half] = _mm512_div_ps(own, _mm512_add_ps(one, power));
        }
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(parts[1], parts[0]));
    }
}

// y = gelu(x · firstᵀ + first_bias) · secondᵀ + second_bias; x, y [rows, depth]. depth and inner, that of the layer
// between, are multiples of 32, at most 4096.
void feed_forward_by_tiles(const float *x, const uint16_t *first, const float *first_bias, const uint16_t *second,
                           const float *second_bias, float *y, long rows, long depth, long inner) {
    static uint16_t left[ROWS * MOST_DEPTH] __attribute__((aligned(64)));
    static uint16_t between[ROWS * MOST_DEPTH] __attribute__((aligned(64)));
    static float sums[ROWS * MOST_DEPTH] __attribute__((aligned(64)));
    configure_tiles();
    for (long row = 0; row < rows; row += ROWS) {
        long count = rows - row < ROWS ? rows - row : ROWS;
        round_rows(x + row * depth, depth, left, count, depth);
        for (long n = 0; n < inner; n += COLUMNS)
            four_tiles(left, first + n * depth, first_bias + n, sums + n, inner, depth);
        round_gelu(sums, between, ROWS * inner);
        for (long n = 0; n < depth; n += COLUMNS)
            four_tiles(between, second + n * inner, second_bias + n, sums + n, depth, inner);
        memcpy(y + row * depth, sums, count * depth * sizeof(float));
    }
    _tile_release();
}

// weights = exp(scores − the largest) in bfloat16; returns their sum. to_twos: what scores are in powers of two.
static float weights_of(const float *scores, uint16_t *weights, long keys, __m512 to_twos) {
    __m512 most = _mm512_loadu_ps(scores), total = _mm512_setzero_ps();
    for (long n = TILE; n < keys; n += TILE) most = _mm512_max_ps(most, _mm512_loadu_ps(scores + n));
    __m512 largest = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(most)), to_twos);
    for (long n = 0; n < keys; n += DEPTH) {
        __m512 low = two_to_the(_mm512_fmsub_ps(_mm512_loadu_ps(scores + n), to_twos, largest));
        __m512 high = two_to_the(_mm512_fmsub_ps(_mm512_loadu_ps(scores + n + TILE), to_twos, largest));
        total = _mm512_add_ps(total, _mm512_add_ps(low, high));
        _mm512_storeu_si512(weights + n, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    return _mm512_reduce_add_ps(total);
}

// out = softmax(scale · q kᵀ) v of one head; q, out [queries, width], k, v [keys, width], rows so many floats apart.
// keys and width are multiples of 32, at most 2048 and 128; scale is positive.
void attention_by_tiles(const float *q, const float *k, const float *v, float *out, long queries, long keys, long width,
                        long q_row, long k_row, long v_row, long out_row, float scale) {
    static uint16_t packed_k[MOST_KEYS * MOST_WIDTH] __attribute__((aligned(64)));
    static uint16_t packed_v[MOST_KEYS * MOST_WIDTH] __attribute__((aligned(64)));
    static uint16_t left[ROWS * MOST_WIDTH] __attribute__((aligned(64)));
    static uint16_t weights[ROWS * MOST_KEYS] __attribute__((aligned(64)));
    static float scores[ROWS * MOST_KEYS] __attribute__((aligned(64)));
    static float sums[ROWS * COLUMNS] __attribute__((aligned(64)));
    static const float zeros[COLUMNS];
    float totals[ROWS];
    __m512 to_twos = _mm512_set1_ps(scale * 1.4426950409f);
    configure_tiles();
    pack_rows(k, k_row, packed_k, keys, width);
    pack_columns(v, v_row, packed_v, width, keys);
    for (long row = 0; row < queries; row += ROWS) {
        long count = queries - row < ROWS ? queries - row : ROWS;
        round_rows(q + row * q_row, q_row, left, count, width);
        for (long n = 0; n < keys; n += COLUMNS)
            four_tiles(left, packed_k + n * width, zeros, scores + n, keys, width);
        for (long i = 0; i < ROWS; i++) totals[i] = weights_of(scores + i * keys, weights + i * keys, keys, to_twos);
        for (long d = 0; d < width; d += COLUMNS) {
            four_tiles(weights, packed_v + d * keys, zeros, sums, COLUMNS, keys);
            for (long i = 0; i < count; i++) {
                float *own = out + (row + i) * out_row + d, share = 1.0f / totals[i];
                for (long j = 0; j < COLUMNS; j++) own[j] = sums[i * COLUMNS + j] * share;
            }
        }
    }
    _tile_release();
}
#endif
