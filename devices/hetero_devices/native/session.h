/* What both runtimes offer, how their libraries are found, and what they print is caught. */
#ifndef HETERO_SESSION_H
#define HETERO_SESSION_H

#include "images.h"

typedef struct Session {
    size_t height, width, dim, block; /* block: images a call takes at most */
    const char *runtime, *version, *input_type;
    /* pixels of `count` images, uint8 -> float32 [count, dim] */
    void (*run)(struct Session *, const uint8_t *pixels, size_t count, float *embeddings);
    int (*partitions)(struct Session *); /* parts of the graph that XNNPACK runs, -1: not known; NULL: never known */
    const char *model; /* the file's name */
    void *state;       /* the runtime's own */
} Session;

static void check_finite(const Session *session, const float *embeddings, size_t count) {
    for (size_t i = 0; i < count * session->dim; i++)
        if (!isfinite(embeddings[i]))
            fail(MODEL, "%s gave NaN or infinity (first for image %zu)", session->model, i / session->dim);
}

/* float32 [N, dim] of all images. */
static float *embed(Session *session, const Images *images) {
    size_t count = images->extents[0], pixels = session->height * session->width * 3;
    float *embeddings = allocate(product(product(count, session->dim, images->name), sizeof(float), images->name));
    for (size_t row = 0; row < count; row += session->block) {
        size_t part = count - row < session->block ? count - row : session->block;
        session->run(session, images->pixels + row * pixels, part, embeddings + row * session->dim);
    }
    check_finite(session, embeddings, count);
    return embeddings;
}

/* What a runtime prints says more than its error codes, and does not belong between our lines. */
static void catch_standard_error(void) {
    char *name = text_of("%s/.messages.XXXXXX", output_folder);
    int file = mkstemp(name);
    if (file < 0) return;
    unlink(name);
    fflush(stderr);
    caught_stream = dup(2);
    if (caught_stream >= 0) dup2(file, 2);
    close(file);
}

static void release_standard_error(void) {
    if (caught_stream < 0) return;
    fflush(stderr);
    dup2(caught_stream, 2);
    close(caught_stream);
    caught_stream = -1;
}

/* What was printed since `catch_standard_error`, which goes on. */
static char *caught_text(void) {
    enum { MOST = 1 << 16 };
    char *text = allocate(MOST + 1);
    fflush(stderr);
    if (caught_stream < 0) return text;
    off_t end = lseek(2, 0, SEEK_END);
    ssize_t count = pread(2, text, MOST, end > MOST ? end - MOST : 0);
    text[count > 0 ? count : 0] = 0;
    return text;
}

/* A file in `folder` called `file`, or else `file` with a version behind it; NULL when there is none. */
static char *library_in(const char *folder, const char *file) {
    char *found = text_of("%s/%s", folder, file);
    if (is_file(found)) return found;
    DIR *entries = opendir(folder);
    found = NULL;
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        if (!strncmp(entry->d_name, file, strlen(file)) && entry->d_name[strlen(file)] == '.')
            found = text_of("%s/%s", folder, entry->d_name);
    if (entries) closedir(entries);
    return found;
}

/* The path to open: set, beside this program, or the plain name for the system to look for. */
static char *library_path(const char *variable, const char *file) {
    char program[PATH_MAX];
    const char *set = getenv(variable);
    if (set && *set) return text_of("%s", set);
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length > 0) {
        program[length] = 0;
        char *beside = library_in(folder_of(program), file);
        if (beside) return beside;
    }
    return text_of("%s", file);
}

static void *try_library(const char *variable, const char *file, char **path) {
    *path = library_path(variable, file);
    return dlopen(*path, RTLD_NOW | RTLD_LOCAL);
}

static void *open_library(const char *variable, const char *file, const char *runtime) {
    char *path;
    void *library = try_library(variable, file, &path);
    if (library) return library;
    if (!is_file(path))
        fail(MISSING, "%s is not there: put %s beside the runner or its path into %s", runtime, file, variable);
    const char *reason = dlerror();
    fail(DEVICE, "cannot open %s: %s", path, reason ? reason : "unknown reason");
}

#endif
