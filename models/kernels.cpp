// What a call on a CPU computes beside the network, for one thread and without Python between.
//
// `kernels.py` compiles and calls it. The same is written in numpy and torch, for machines without a compiler
// (`neighbours.py`, `reliability.py`): bond vectors agree with those bit by bit, lengths up to rounding.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

enum { MOVED_FAR = 0, CROSSED = 1, HELD = 2 };

// Vectors along pairs of atoms into slots, all x first, then y and z. MOVED_FAR: some atom has moved further than the leeway from
// `before`, and there may be other pairs. CROSSED: others than those that have a slot (-1: none) are within the cutoff,
// and `near` says which. HELD: the vectors are there.
template <typename T>
int bond_vectors(const double* positions, const double* before, int64_t n_atoms, const int64_t* first,
                 const int64_t* second, const double* offsets, const int64_t* slot, int64_t n_pairs,
                 double squared_leeway, double squared_cutoff, uint8_t* near, int64_t all_slots, T* vectors) {
    for (int64_t i = 0; i < n_atoms; ++i) {
        double moved = 0.0;
        for (int k = 0; k < 3; ++k) {
            const double step = positions[3 * i + k] - before[3 * i + k];
            moved += step * step;
        }
        if (!(moved <= squared_leeway)) return MOVED_FAR;  // also if it is not a number
    }
    bool held = true;
    for (int64_t pair = 0; pair < n_pairs; ++pair) {
        const double* from = positions + 3 * first[pair];
        const double* to = positions + 3 * second[pair];
        const double x = to[0] - from[0] + offsets[3 * pair];
        const double y = to[1] - from[1] + offsets[3 * pair + 1];
        const double z = to[2] - from[2] + offsets[3 * pair + 2];
        const bool is_near = x * x + y * y + z * z < squared_cutoff;
        const int64_t place = slot[pair];
        near[pair] = is_near;
        held &= is_near == (place >= 0);
        if (place >= 0) {
            vectors[place] = static_cast<T>(x);
            vectors[place + all_slots] = static_cast<T>(y);
            vectors[place + 2 * all_slots] = static_cast<T>(z);
        }
    }
    return held ? HELD : CROSSED;
}

// |(x - o) M| of rows x (n, n_in), with the origin o (n_in) and the map M of the row's element; maps (n_elements,
// n_blocks, n_in, COLUMNS) come in blocks of columns, in the order in which they are read. Rows come by element: `order`
// says which ones, `runs` (n_runs, 3) element, first place and the one after the last. As many rows and columns at a
// time as there are registers for their sums.
constexpr int VECTOR_BYTES = 64, ROWS = 6, VECTORS = 2, COLUMNS = 32;

template <typename T>
struct Lanes {
    typedef T Vector __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int N = VECTOR_BYTES / sizeof(T);

    static Vector load(const T* from) {
        Vector values;
        std::memcpy(&values, from, sizeof values);
        return values;
    }
};

template <typename T>
void add_squares(const T* const* rows, const T* origin, const T* block, int64_t n_in,
                 typename Lanes<T>::Vector* squares) {
    for (int first = 0; first < COLUMNS; first += VECTORS * Lanes<T>::N) {
        typename Lanes<T>::Vector sums[ROWS][VECTORS] = {};
        for (int64_t k = 0; k < n_in; ++k) {
            const T shift = origin == nullptr ? T(0) : origin[k];
            for (int v = 0; v < VECTORS; ++v) {
                const typename Lanes<T>::Vector m = Lanes<T>::load(block + k * COLUMNS + first + v * Lanes<T>::N);
                for (int r = 0; r < ROWS; ++r) sums[r][v] += (rows[r][k] - shift) * m;
            }
        }
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) squares[r] += sums[r][v] * sums[r][v];
    }
}

template <typename T>
void lengths(const T* x, int64_t n_in, const int64_t* order, const int64_t* runs, int64_t n_runs, const T* origins,
             const T* maps, int64_t n_blocks, T* result) {
    for (int64_t run = 0; run < n_runs; ++run) {
        const int64_t element = runs[3 * run], end = runs[3 * run + 2];
        const T* map = maps + element * n_blocks * n_in * COLUMNS;
        const T* origin = origins == nullptr ? nullptr : origins + element * n_in;
        for (int64_t start = runs[3 * run + 1]; start < end; start += ROWS) {
            const T* rows[ROWS];
            for (int r = 0; r < ROWS; ++r) rows[r] = x + n_in * order[start + r < end ? start + r : end - 1];
            typename Lanes<T>::Vector squares[ROWS] = {};
            for (int64_t block = 0; block < n_blocks; ++block)
                add_squares<T>(rows, origin, map + block * n_in * COLUMNS, n_in, squares);
            for (int r = 0; r < ROWS && start + r < end; ++r) {
                T sum = 0;
                for (int lane = 0; lane < Lanes<T>::N; ++lane) sum += squares[r][lane];
                result[order[start + r]] = std::sqrt(sum);
            }
        }
    }
}

}  // namespace

#define FOR_TYPE(NAME, T)                                                                                             \
    extern "C" int bond_vectors_##NAME(const double* positions, const double* before, int64_t n_atoms,                \
                                       const int64_t* first, const int64_t* second, const double* offsets,            \
                                       const int64_t* slot, int64_t n_pairs, double squared_leeway,                   \
                                       double squared_cutoff, uint8_t* near, int64_t all_slots, T* vectors) {         \
        return bond_vectors<T>(positions, before, n_atoms, first, second, offsets, slot, n_pairs, squared_leeway,     \
                               squared_cutoff, near, all_slots, vectors);                                             \
    }                                                                                                                 \
    extern "C" void lengths_##NAME(const T* x, int64_t n_in, const int64_t* order, const int64_t* runs,               \
                                   int64_t n_runs, const T* origins, const T* maps, int64_t n_blocks, T* result) {    \
        lengths<T>(x, n_in, order, runs, n_runs, origins, maps, n_blocks, result);                                    \
    }

FOR_TYPE(float32, float)
FOR_TYPE(float64, double)
