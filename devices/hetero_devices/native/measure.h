/* Measuring: the rule of measure.py. */
#ifndef HETERO_MEASURE_H
#define HETERO_MEASURE_H

#include "job.h"
#include "litert.h"
#include "onnx.h"

enum { MEMORY_RUNS = 5 }; /* as in measure.py */

typedef struct {
    const char *suffix;
    const void *(*open)(void); /* the runtime's functions */
    Session *(*load)(const void *functions, const char *path, int threads);
} Runtime;

static const void *open_ort(void) { return ort_base(); }

static const Runtime RUNTIMES[] = {{".onnx", open_ort, ort_load}, {".tflite", lite_api, lite_load}};

static const Runtime *runtime_of(const char *path) {
    const char *suffix = strrchr(name_of(path), '.');
    for (size_t i = 0; suffix && i < 2; i++)
        if (!strcmp(suffix, RUNTIMES[i].suffix)) return &RUNTIMES[i];
    fail(MODEL, "%s is no model this library runs: expected a name ending in .onnx or .tflite", name_of(path));
}

static Session *load(const Runtime *runtime, const void *functions, const Job *job) {
    if (!is_file(job->model)) fail(MODEL, "no model file at %s", job->model);
    return runtime->load(functions, job->model, job->threads);
}

typedef struct {
    double p50, p90, p95, p99, mean, least, first, load; /* milliseconds */
    size_t samples;
} Latency;

static double now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void run_one(Session *session, const Images *images, size_t turn) {
    static float *embedding;
    size_t row = turn % images->extents[0];
    if (!embedding) embedding = allocate(session->dim * sizeof(float));
    session->run(session, images->pixels + row * session->height * session->width * 3, 1, embedding);
    check_finite(session, embedding, 1);
}

static int by_size(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile(const double *sorted, size_t count, size_t percent) {
    return sorted[(count * percent + 99) / 100 - 1]; /* by nearest rank */
}

static Latency summarise(double *samples, size_t count) {
    Latency latency = {.samples = count};
    for (size_t i = 0; i < count; i++) latency.mean += samples[i] / (double)count;
    qsort(samples, count, sizeof *samples, by_size);
    latency.least = samples[0];
    latency.p50 = percentile(samples, count, 50), latency.p90 = percentile(samples, count, 90);
    latency.p95 = percentile(samples, count, 95), latency.p99 = percentile(samples, count, 99);
    return latency;
}

static Latency measure_latency(Session *session, const Images *images, const Job *job, double load_ms) {
    size_t turn = 0, count = 0, room = 1024;
    double *samples = allocate(room * sizeof *samples);
    double start = now_ms();
    run_one(session, images, turn++);
    double first = now_ms() - start;
    for (long long i = 0; i < job->warm_up; i++) run_one(session, images, turn++);
    double begin = now_ms();
    for (;;) {
        start = now_ms();
        run_one(session, images, turn++);
        if (count == room) samples = realloc(samples, (room *= 2) * sizeof *samples);
        if (!samples) fail(DEVICE, "not enough memory for the samples");
        samples[count++] = now_ms() - start;
        double seconds = (now_ms() - begin) / 1e3;
        bool enough = (long long)count >= job->min_samples && seconds >= job->min_seconds;
        if (enough || seconds >= job->max_seconds) break;
    }
    Latency latency = summarise(samples, count);
    latency.first = first, latency.load = load_ms;
    return latency;
}

/* A field of /proc/self/status in bytes; 0 when it is not there. */
static double memory_status(const char *key) {
    char *text = read_small("/proc/self/status", 1 << 14, NULL);
    char *at = text ? strstr(text, text_of("\n%s:", key)) : NULL;
    return at ? strtod(strchr(at, ':') + 1, NULL) * 1024 : 0;
}

/* Lower VmHWM to the present resident set (proc(5), clear_refs); not permitted everywhere. */
static void reset_peak(void) {
    int file = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (file < 0) return;
    if (write(file, "5", 1) < 0) errno = 0;
    close(file);
}

/* The rise of the peak resident set in 10^6 bytes by loading and running single images; NAN: not known. */
static double measure_memory(const Runtime *runtime, const void *functions, const Job *job, const Images *images,
                             Session **session) {
    reset_peak();
    double resident = memory_status("VmRSS"), before = memory_status("VmHWM");
    *session = load(runtime, functions, job);
    check_images(images, (*session)->height, (*session)->width);
    for (size_t i = 0; i < MEMORY_RUNS; i++) run_one(*session, images, i);
    double peak = memory_status("VmHWM");
    return !resident || !peak || peak == before ? NAN : (peak - resident) / 1e6;
}

#endif
