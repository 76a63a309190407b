/* The job: job.json decoded as job.py does it. */
#ifndef HETERO_JOB_H
#define HETERO_JOB_H

#include "json.h"
#include "sha256.h"

enum { EMBED = 1, LATENCY = 2, MEMORY = 4, PLACEMENT = 8 };

typedef struct {
    char *model, *images, *output;
    char *model_digest, *images_digest; /* NULL: not to be checked */
    unsigned tasks;
    int threads;
    cpu_set_t cpus;
    int cpu_count;
    char *cpu_list; /* as text */
    long long warm_up, min_samples;
    double min_seconds, max_seconds;
} Job;

static const char *const TASKS[] = {"embed", "latency", "memory", "placement"};

static const char *shown(const Json *value) {
    static const char *const kinds[] = {"null", "a boolean", "a number", "a string", "a list", "an object"};
    if (value->text && strlen(value->text) < 60) return value->text;
    return kinds[value->kind];
}

/* The members of an object in the order of `names`, NULL for those absent; no others, none twice. */
static void members(const Json *object, const char *where, const char *const *names, size_t count, Json **found) {
    memset(found, 0, count * sizeof *found);
    if (object->kind != JSON_OBJECT) fail(DEVICE, "%s is %s, expected an object", where, shown(object));
    for (Json *item = object->items; item; item = item->next) {
        size_t i = 0;
        while (i < count && strcmp(names[i], item->key)) i++;
        if (i == count) fail(DEVICE, "%s has the unknown key '%.60s'", where, item->key);
        if (found[i]) fail(DEVICE, "%s has the key '%s' twice", where, names[i]);
        found[i] = item;
    }
}

static char *string_of(const Json *value, const char *where) {
    if (value->kind != JSON_STRING) fail(DEVICE, "%s is %s, expected a string", where, shown(value));
    return value->text;
}

static long long integer_of(const Json *value, const char *where) {
    char *end = NULL;
    errno = 0;
    long long number = value->kind == JSON_NUMBER ? strtoll(value->text, &end, 10) : 0;
    if (!end || *end || errno) fail(DEVICE, "%s is %s, expected an integer", where, shown(value));
    return number;
}

static double real_of(const Json *value, const char *where) {
    double number = value->kind == JSON_NUMBER ? strtod(value->text, NULL) : NAN;
    if (!isfinite(number)) fail(DEVICE, "%s is %s, expected a number", where, shown(value));
    return number;
}

static const Json *list_of(const Json *value, const char *where) {
    if (value->kind != JSON_LIST) fail(DEVICE, "%s is %s, expected a list", where, shown(value));
    return value->items;
}

static void decode_tasks(Job *job, const Json *list) {
    job->tasks = 0;
    for (const Json *item = list_of(list, "job.tasks"); item; item = item->next) {
        unsigned i = 0;
        const char *name = string_of(item, "a task of the job");
        while (i < 4 && strcmp(TASKS[i], name)) i++;
        if (i == 4)
            fail(DEVICE, "job.tasks has '%.60s', expected 'embed' or 'latency' or 'memory' or 'placement'", name);
        if (job->tasks & 1u << i) fail(DEVICE, "a job needs distinct tasks, not '%s' twice", name);
        job->tasks |= 1u << i;
    }
    if (!job->tasks) fail(DEVICE, "a job needs distinct tasks, not none");
}

static void decode_cpus(Job *job, const Json *list) {
    for (const Json *item = list_of(list, "job.cpus"); item; item = item->next) {
        long long cpu = integer_of(item, "a processor of the job");
        if (cpu < 0 || cpu >= CPU_SETSIZE || CPU_ISSET((size_t)cpu, &job->cpus))
            fail(DEVICE, "processors are distinct numbers from 0, not %lld", cpu);
        CPU_SET((size_t)cpu, &job->cpus);
        job->cpu_list = text_of("%s%s%lld", job->cpu_count ? job->cpu_list : "", job->cpu_count ? ", " : "", cpu);
        job->cpu_count++;
    }
}

static void decode_stopping(Job *job, const Json *object) {
    static const char *const names[] = {"warm_up", "min_samples", "min_seconds", "max_seconds"};
    Json *found[4];
    members(object, "job.stopping", names, 4, found);
    if (found[0]) job->warm_up = integer_of(found[0], "job.stopping.warm_up");
    if (found[1]) job->min_samples = integer_of(found[1], "job.stopping.min_samples");
    if (found[2]) job->min_seconds = real_of(found[2], "job.stopping.min_seconds");
    if (found[3]) job->max_seconds = real_of(found[3], "job.stopping.max_seconds");
    if (job->warm_up < 0 || job->min_samples < 1 || job->min_seconds < 0 || job->min_seconds > job->max_seconds)
        fail(DEVICE, "cannot measure by this job.stopping: needs warm_up >= 0, min_samples >= 1, "
                     "0 <= min_seconds <= max_seconds");
}

static void decode_digests(Job *job, const Json *object) {
    static const char *const names[] = {"model", "images"};
    Json *found[2];
    members(object, "job.digests", names, 2, found);
    if (found[0]) job->model_digest = string_of(found[0], "job.digests.model");
    if (found[1]) job->images_digest = string_of(found[1], "job.digests.images");
}

/* Read a job; relative paths start at its file's folder. */
static Job read_job(const char *path) {
    static const char *const names[] = {"model", "images", "output", "tasks", "threads", "cpus", "stopping", "digests"};
    Json *found[8];
    Job job = {.tasks = EMBED, .threads = 1, .warm_up = 10, .min_samples = 200, .min_seconds = 1, .max_seconds = 60};
    CPU_ZERO(&job.cpus);
    members(read_json(path), "job", names, 8, found);
    for (int i = 0; i < 2; i++)
        if (!found[i]) fail(DEVICE, "job lacks the key '%s'", names[i]);
    if (found[3]) decode_tasks(&job, found[3]);
    if (found[4]) {
        long long threads = integer_of(found[4], "job.threads");
        if (threads < 1 || threads > 1024)
            fail(DEVICE, "a job needs at least one thread and at most 1024, not %lld", threads);
        job.threads = (int)threads;
    }
    if (found[5]) decode_cpus(&job, found[5]);
    if (found[6]) decode_stopping(&job, found[6]);
    if (found[7]) decode_digests(&job, found[7]);
    char *folder = folder_of(path);
    job.model = inside(folder, string_of(found[0], "job.model"));
    job.images = inside(folder, string_of(found[1], "job.images"));
    job.output = inside(folder, found[2] ? string_of(found[2], "job.output") : ".");
    return job;
}

static void check_digest(const char *name, const char *path, const char *expected) {
    if (expected && strcmp(expected, sha_of_file(path)))
        fail(TRANSFER, "the %s %s did not arrive as they were sent: send them again", name, name_of(path));
}

static void pin(const Job *job) {
    if (job->cpu_count && sched_setaffinity(0, sizeof job->cpus, &job->cpus))
        fail(DEVICE, "there are no processors [%s] to pin to", job->cpu_list);
}

#endif
