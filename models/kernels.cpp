// A call on a CPU from positions to forces without Python between, and what it computes beside the network.
//
// `kernels.py` compiles it; `whole_call.py` and `reliability.py` call it. The same is written in numpy and torch
// (`neighbours.py`, `reliability.py`, `potential.py`), for machines without a compiler and for graphs made before: bond
// vectors agree with those bit by bit, lengths up to rounding.

#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {

enum { MOVED_FAR = 0, CROSSED = 1, HELD = 2, FAILED = 3 };

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

// The stable C interfaces of torch (torch/csrc/inductor/aoti_torch/c/shim.h) and of the compiled pass
// (torch/csrc/inductor/aoti_runtime/interface.h), as far as they are called here.
typedef void* Tensor;
typedef int32_t (*Create)(void* data, int64_t n_dims, const int64_t* sizes, const int64_t* strides, int64_t offset,
                          int32_t dtype, int32_t device_type, int32_t device_index, Tensor* made);
typedef int32_t (*Release)(Tensor);
typedef int32_t (*DataOf)(Tensor, void** data);
typedef int32_t (*ShapeOf)(Tensor, int64_t** sizes_or_strides);
typedef int32_t (*Run)(void* container, Tensor* inputs, size_t n_inputs, Tensor* outputs, size_t n_outputs,
                       void* stream, void* proxy_executor);

// What is the same in every call of a potential; `_Potential` in whole_call.py.
struct Potential {
    void* container;
    Run run;
    Create create;
    Release release;
    DataOf data_of;
    ShapeOf sizes_of, strides_of;
    int64_t real_type, integer_type, bool_type, device_type;  // as torch counts them
    double squared_cutoff;
    const float* means;     // of the training domain, null: there is none
    const float* maps;
    int64_t n_map_blocks;
    const double* factors;  // of the expected error, null: there is none
    int64_t n_factor_blocks;
    int64_t n_told;         // features that it looks at, before the constant
};

// What stays while atoms have the same neighbours; `_Neighbours` in whole_call.py.
struct Neighbours {
    int64_t n_atoms, n_slots, n_pairs;
    const double* before;  // positions at which the pairs were found
    const int64_t *first, *second;
    const double* offsets;
    const int64_t* slot;
    int64_t* numbers;
    int64_t* neighbours;
    bool* mask;
    int64_t* reverse;
    int64_t* condition;  // (n_atoms, 2), null: the network takes none
    const int64_t *order, *runs;
    int64_t n_runs;
};

constexpr int MOST_INPUTS = 6, N_OUTPUTS = 4;

bool add_input(const Potential& potential, void* data, int64_t type, int64_t n_dims, const int64_t* sizes,
               const int64_t* strides, Tensor* inputs, size_t& n_inputs) {
    return potential.create(data, n_dims, sizes, strides, 0, static_cast<int32_t>(type),
                            static_cast<int32_t>(potential.device_type), 0, &inputs[n_inputs]) == 0 &&
           ++n_inputs;
}

// A tensor whose numbers lie one after the other; no data if they do not.
template <typename T>
struct Output {
    const T* data = nullptr;
    const int64_t* sizes = nullptr;

    Output(const Potential& potential, Tensor tensor, int n_dims) {
        int64_t *sizes_seen = nullptr, *strides = nullptr, expected = 1;
        void* seen = nullptr;
        if (potential.sizes_of(tensor, &sizes_seen) != 0 || potential.strides_of(tensor, &strides) != 0 ||
            potential.data_of(tensor, &seen) != 0)
            return;
        sizes = sizes_seen;
        for (int k = n_dims - 1; k >= 0; expected *= sizes[k--])
            if (strides[k] != expected && sizes[k] != 1) return;
        data = static_cast<const T*>(seen);
    }
};

// The compiled pass. Outputs are energies, forces, virials and descriptors; false if it failed.
template <typename T>
bool run_pass(const Potential& potential, const Neighbours& around, T* vectors, Tensor* outputs) {
    const int64_t n = around.n_atoms, slots = around.n_slots, all = n * slots;
    const int64_t rows[] = {n, slots}, row_strides[] = {slots, 1}, one = 1;
    const int64_t spatial[] = {n, slots, 3}, components_first[] = {slots, 1, all};
    const int64_t pairs[] = {n, 2}, pair_strides[] = {2, 1};
    Tensor inputs[MOST_INPUTS];
    size_t made = 0;
    const bool whole =
        add_input(potential, around.numbers, potential.integer_type, 1, &n, &one, inputs, made) &&
        add_input(potential, vectors, potential.real_type, 3, spatial, components_first, inputs, made) &&
        add_input(potential, around.neighbours, potential.integer_type, 2, rows, row_strides, inputs, made) &&
        add_input(potential, around.mask, potential.bool_type, 2, rows, row_strides, inputs, made) &&
        add_input(potential, around.reverse, potential.integer_type, 1, &all, &one, inputs, made) &&
        (around.condition == nullptr ||
         add_input(potential, around.condition, potential.integer_type, 2, pairs, pair_strides, inputs, made));
    if (!whole) {
        for (size_t k = 0; k < made; ++k) potential.release(inputs[k]);
        return false;
    }
    return potential.run(potential.container, inputs, made, outputs, N_OUTPUTS, nullptr, nullptr) == 0;  // takes them
}

// result: energies (n), forces (n, 3), the sum of virials (3, 3), the largest length to the training data, and for each
// atom the spread of the last layer: n, 3 n, 9, 1 and n numbers.
template <typename T>
bool take_out(const Potential& potential, const Neighbours& around, Tensor* outputs, double* result) {
    const int64_t n = around.n_atoms;
    const Output<double> energies(potential, outputs[0], 1);
    const Output<T> forces(potential, outputs[1], 2), virials(potential, outputs[2], 3), told(potential, outputs[3], 2);
    if (!energies.data || !forces.data || !virials.data || !told.data) return false;
    const T* features = told.data;
    const int64_t n_features = told.sizes[1];
    for (int64_t i = 0; i < n; ++i) *result++ = energies.data[i];
    for (int64_t i = 0; i < 3 * n; ++i) *result++ = forces.data[i];
    for (int k = 0; k < 9; ++k) {
        double sum = 0.0;
        for (int64_t i = 0; i < n; ++i) sum += virials.data[9 * i + k];
        *result++ = sum;
    }
    double largest = 0.0;
    if (potential.means != nullptr) {
        std::vector<float> own(features, features + n * n_features), length(n);
        lengths<float>(own.data(), n_features, around.order, around.runs, around.n_runs, potential.means,
                       potential.maps, potential.n_map_blocks, length.data());
        for (const float each : length) largest = each > largest || each != each ? each : largest;
    }
    *result++ = largest;
    if (potential.factors != nullptr) {
        std::vector<double> own(n * (potential.n_told + 1));
        for (int64_t i = 0; i < n; ++i) {
            double* row = own.data() + i * (potential.n_told + 1);
            for (int64_t k = 0; k < potential.n_told; ++k) row[k] = features[i * n_features + k];
            row[potential.n_told] = 1.0;
        }
        lengths<double>(own.data(), potential.n_told + 1, around.order, around.runs, around.n_runs, nullptr,
                        potential.factors, potential.n_factor_blocks, result);
    }
    return true;
}

// MOVED_FAR and CROSSED as of `bond_vectors`; HELD: `result` is there (`take_out`); FAILED: only torch can say why.
template <typename T>
int whole_call(const Potential& potential, const Neighbours& around, const double* positions, double squared_leeway,
               uint8_t* near, double* result) {
    const int64_t all = around.n_atoms * around.n_slots;
    std::vector<T> vectors(3 * all);
    const int said = bond_vectors<T>(positions, around.before, around.n_atoms, around.first, around.second,
                                     around.offsets, around.slot, around.n_pairs, squared_leeway,
                                     potential.squared_cutoff, near, all, vectors.data());
    if (said != HELD) return said;
    Tensor outputs[N_OUTPUTS];
    if (!run_pass<T>(potential, around, vectors.data(), outputs)) return FAILED;
    const bool taken = take_out<T>(potential, around, outputs, result);
    for (Tensor output : outputs) potential.release(output);
    return taken ? HELD : FAILED;
}

// A call that waits for a thread, is made by one, or is done; `_Task` in whole_call.py, whose memory it is.
struct Task {
    int (*call)(const Potential*, const Neighbours*, const double*, double, uint8_t*, double*);
    const Potential* potential;
    const Neighbours* around;
    const double* positions;
    double squared_leeway;
    uint8_t* near;
    double* result;
    int64_t is_done, said;
};

// Threads that make calls while Python does something else. Whoever waits for a call makes others in the meantime.
class Helpers {
  public:
    Helpers(int n, void (*let_torch_use)(int)) {
        try {
            for (int k = 0; k < n; ++k)
                threads_.emplace_back([this, let_torch_use] {
                    let_torch_use(1);
                    work();
                });
        } catch (const std::system_error&) {  // as many as can be had
        }
    }

    ~Helpers() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            waiting_.clear();
            is_over_ = true;
        }
        changed_.notify_all();
        for (std::thread& each : threads_) each.join();
    }

    void put(Task* task) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            waiting_.push_back(task);
        }
        changed_.notify_all();
    }

    void finish(Task* task) {
        std::unique_lock<std::mutex> lock(mutex_);
        while (!task->is_done) {
            if (waiting_.empty())
                changed_.wait(lock);
            else
                make_next(lock);
        }
    }

  private:
    void work() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (!is_over_) {
            if (waiting_.empty())
                changed_.wait(lock);
            else
                make_next(lock);
        }
    }

    void make_next(std::unique_lock<std::mutex>& lock) {
        Task* task = waiting_.front();
        waiting_.pop_front();
        lock.unlock();
        const int said = task->call(task->potential, task->around, task->positions, task->squared_leeway, task->near,
                                    task->result);
        lock.lock();
        task->said = said;
        task->is_done = 1;
        changed_.notify_all();
    }

    std::vector<std::thread> threads_;
    std::deque<Task*> waiting_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool is_over_ = false;
};

}  // namespace

extern "C" Helpers* helpers_begin(int n, void (*let_torch_use)(int)) {
    try {
        return new Helpers(n, let_torch_use);
    } catch (...) {
        return nullptr;
    }
}
extern "C" void helpers_put(Helpers* helpers, Task* task) { helpers->put(task); }
extern "C" void helpers_finish(Helpers* helpers, Task* task) { helpers->finish(task); }
extern "C" void helpers_end(Helpers* helpers) { delete helpers; }

// An exception, which can only be a lack of memory, must not reach Python's C.
#define FOR_TYPE(NAME, T)                                                                                             \
    extern "C" int whole_call_##NAME(const Potential* potential, const Neighbours* around, const double* positions,   \
                                     double squared_leeway, uint8_t* near, double* result) {                          \
        try {                                                                                                         \
            return whole_call<T>(*potential, *around, positions, squared_leeway, near, result);                       \
        } catch (...) {                                                                                               \
            return FAILED;                                                                                            \
        }                                                                                                             \
    }                                                                                                                 \
    extern "C" void lengths_##NAME(const T* x, int64_t n_in, const int64_t* order, const int64_t* runs,               \
                                   int64_t n_runs, const T* origins, const T* maps, int64_t n_blocks, T* result) {    \
        lengths<T>(x, n_in, order, runs, n_runs, origins, maps, n_blocks, result);                                    \
    }

FOR_TYPE(float32, float)
FOR_TYPE(float64, double)
