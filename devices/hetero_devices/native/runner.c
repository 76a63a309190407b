/* The device runner in C, for phones and boards without Python: the verbs run, info and hold of `hetero-device`.
 *
 * One file for the compiler, its parts in headers beside it. It needs a C library and, at run time,
 * libonnxruntime or libLiteRt. Each is looked for at $HETERO_ONNXRUNTIME or $HETERO_LITERT, then beside this program,
 * then where the system looks.
 * Build: cc -std=c99 -O2 runner.c -o hetero-runner -ldl -lm
 *
 * Every failure ends the process with exit code 2, one line on standard error and, once a job is understood,
 * failure.json in its output folder. A process does one thing and ends, so nothing is freed on the way.
 */
#include "machine.h"
#include "measure.h"
#include "sha256.h"

/* ---- statistics.json and embeddings.npy ---- */

static void write_condition(FILE *file, const char *name, const Condition *condition) {
    fprintf(file, "  \"%s\": {\"temperature_c\": ", name);
    write_json_number(file, condition->temperature_c);
    fputs(", \"clock_mhz\": ", file);
    write_json_number(file, condition->clock_mhz);
    fputs(", \"throttled\": null},\n", file);
}

static void write_latency(FILE *file, const Latency *latency, long long warm_up) {
    if (!latency) {
        fputs("null", file);
        return;
    }
    const struct { const char *name; double value; } fields[] = {
        {"p50_ms", latency->p50},   {"p90_ms", latency->p90},    {"p95_ms", latency->p95},    {"p99_ms", latency->p99},
        {"mean_ms", latency->mean}, {"min_ms", latency->least}, {"first_ms", latency->first}, {"load_ms", latency->load}};
    fputc('{', file);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        fprintf(file, "\"%s\": ", fields[i].name);
        write_json_number(file, fields[i].value);
        fputs(", ", file);
    }
    fprintf(file, "\"samples\": %zu, \"warm_up\": %lld}", latency->samples, warm_up);
}

static void write_runtime(FILE *file, const Session *session, int threads, int partitions) {
    fprintf(file, "{\"runtime\": \"%s\", \"version\": ", session->runtime);
    write_json_text(file, session->version);
    fprintf(file, ", \"input_dtype\": \"%s\", \"batch\": %s, \"threads\": %d, \"xnnpack_partitions\": ",
            session->input_type, session->block == 1 ? "1" : "null", threads);
    if (partitions < 0) fputs("null}", file);
    else fprintf(file, "%d}", partitions);
}

static void write_statistics(const Job *job, Session *session, const Latency *latency, double peak_mb,
                             const Condition *before, const char *embeddings_digest) {
    char *text = NULL;
    size_t size = 0;
    struct utsname system;
    FILE *file = open_memstream(&text, &size);
    if (!file) fail(DEVICE, "not enough memory for the statistics");
    Condition after = condition();
    int partitions = session->partitions ? session->partitions(session) : -1;
    uname(&system);
    fputs("{\n  \"latency\": ", file);
    write_latency(file, latency, job->warm_up);
    fputs(",\n  \"peak_memory_mb\": ", file);
    write_json_number(file, peak_mb);
    fprintf(file, ",\n  \"threads\": %d,\n  \"runtime\": ", job->threads);
    write_runtime(file, session, job->threads, partitions);
    fputs(",\n  \"cpu\": ", file);
    write_cpu(file);
    fputs(",\n  \"versions\": {\"runner\": \"native 1\", \"system\": ", file);
    write_json_text(file, text_of("%s-%s-%s", system.sysname, system.release, system.machine));
    fputs("},\n", file);
    write_condition(file, "before", before);
    write_condition(file, "after", &after);
    fputs("  \"digests\": {", file);
    if (embeddings_digest) fprintf(file, "\"embeddings\": \"%s\"", embeddings_digest);
    fputs("}\n}\n", file);
    if (fclose(file)) fail(DEVICE, "not enough memory for the statistics");
    write_result("statistics.json", text, size);
}

/* Write float32 [count, dim]; its sha256. */
static char *write_embeddings(const float *embeddings, size_t count, size_t dim) {
    size_t bytes = count * dim * sizeof(float), lead = 128; /* the whole header, as numpy pads it */
    char *file = allocate(lead + bytes + 1);
    int length = snprintf(file + 10, lead - 10, "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", count, dim);
    memcpy(file, "\x93NUMPY\x01\x00\x76\x00", 10); /* 0x76: 128 - 10 */
    memset(file + 10 + length, ' ', lead - 11 - (size_t)length);
    file[lead - 1] = '\n';
    memcpy(file + lead, embeddings, bytes); /* every Android and Linux device in use is little-endian */
    Sha256 sha;
    sha_start(&sha);
    sha_add(&sha, (const uint8_t *)file, lead + bytes);
    write_result("embeddings.npy", file, lead + bytes);
    return sha_end(&sha);
}

/* ---- Verbs ---- */

static void do_memory(const Job *job, const Images *images, const Condition *before) {
    if (job->tasks != MEMORY) fail(DEVICE, "memory is measured in a process of its own: give it a job of its own");
    const Runtime *runtime = runtime_of(job->model);
    const void *functions = runtime->open();
    Images some = some_images(images);
    Session *session = NULL;
    double peak = measure_memory(runtime, functions, job, &some, &session);
    write_statistics(job, session, NULL, peak, before, NULL);
}

static void do_others(const Job *job, const Images *images, const Condition *before) {
    const Runtime *runtime = runtime_of(job->model);
    const void *functions = runtime->open();
    double start = now_ms();
    Session *session = load(runtime, functions, job);
    double load_ms = now_ms() - start;
    Latency latency;
    char *digest = NULL;
    if (job->tasks & LATENCY) { /* before embedding, so that the first inference is the first */
        Images some = some_images(images);
        check_images(&some, session->height, session->width);
        latency = measure_latency(session, &some, job, load_ms);
    }
    if (job->tasks & EMBED) {
        check_images(images, session->height, session->width);
        digest = write_embeddings(embed(session, images), images->extents[0], session->dim);
    }
    write_statistics(job, session, job->tasks & LATENCY ? &latency : NULL, NAN, before, digest);
}

static int run(char **arguments) {
    Job job = read_job(arguments[0]);
    make_folders(job.output);
    output_folder = job.output;
    check_digest("model", job.model, job.model_digest);
    check_digest("images", job.images, job.images_digest);
    pin(&job);
    Condition before = condition();
    Images images = read_images(job.images);
    if (job.tasks & MEMORY) do_memory(&job, &images, &before);
    else do_others(&job, &images, &before);
    printf("%s/statistics.json\n", job.output);
    return DONE;
}

static int info(char **arguments) {
    (void)arguments;
    char *path;
    void *library = try_library("HETERO_ONNXRUNTIME", "libonnxruntime.so", &path);
    const OrtApiBase *(*base)(void) = NULL;
    if (library) *(void **)&base = dlsym(library, "OrtGetApiBase");
    bool lite = try_library("HETERO_LITERT", "libLiteRt.so", &path) != NULL;
    printf("{\"cpu\": ");
    write_cpu(stdout);
    printf(", \"runtimes\": {\"onnxruntime\": ");
    write_json_text(stdout, base ? base()->GetVersionString() : NULL);
    printf(", \"litert\": %s}, \"runner\": \"native 1\"}\n", lite ? "\"2.3 or later\"" : "null");
    return DONE;
}

/* Own the device while standard input is open: a host that is gone has closed it. */
static int hold(char **arguments) {
    const char *lock = arguments[0], *owner = arguments[1];
    char buffer[201];
    make_folders(folder_of(lock));
    int file = open(lock, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) fail(DEVICE, "cannot open %s: %s", lock, strerror(errno));
    if (flock(file, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK) fail(DEVICE, "cannot lock %s: %s", lock, strerror(errno));
        ssize_t length = pread(file, buffer, sizeof buffer - 1, 0);
        buffer[length > 0 ? length : 0] = 0;
        buffer[strcspn(buffer, "\r\n")] = 0;
        printf("busy %s\n", buffer);
        return BUSY;
    }
    if (ftruncate(file, 0) || write(file, owner, strlen(owner)) < 0)
        fail(DEVICE, "cannot write %s: %s", lock, strerror(errno));
    puts("held");
    fflush(stdout);
    while (read(0, buffer, sizeof buffer) > 0) continue;
    return ftruncate(file, 0) ? BAD_INPUT : DONE;
}

int main(int count, char **arguments) {
    static const struct { const char *name; int arguments; int (*command)(char **); } verbs[] = {
        {"run", 1, run}, {"info", 0, info}, {"hold", 2, hold}};
    for (size_t i = 0; count > 1 && i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(arguments[1], verbs[i].name) && count == verbs[i].arguments + 2)
            return verbs[i].command(arguments + 2);
    fprintf(stderr, "usage: %s run JOB.json | info | hold LOCKFILE OWNER\n", count ? arguments[0] : "hetero-runner");
    return BAD_INPUT;
}
