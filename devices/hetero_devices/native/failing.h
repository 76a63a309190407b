/* Failing with one line and a report; memory and text that fail likewise; files that are whole or absent. */
#ifndef HETERO_FAILING_H
#define HETERO_FAILING_H

#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum { DONE = 0, BUSY = 1, BAD_INPUT = 2 }; /* exit codes */

static const char MISSING[] = "MissingExtra", TRANSFER[] = "TransferError", DATA[] = "DataError",
                  MODEL[] = "ModelError", DEVICE[] = "DeviceError";

static const char *output_folder;   /* NULL until a job is understood */
static const char *unfinished_file; /* removed when the process fails while writing it */
static int caught_stream = -1;      /* the real standard error while that of a runtime is caught */

static bool write_whole(const char *name, const void *data, size_t size);
static void write_json_string(FILE *file, const char *text); /* json.h */
static void release_standard_error(void); /* session.h */

__attribute__((noreturn, format(printf, 2, 3))) static void fail(const char *kind, const char *format, ...) {
    static char message[2000];
    static bool failing;
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    for (char *at = message; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 127) *at = ' '; /* one line */
    release_standard_error();
    if (unfinished_file) unlink(unfinished_file);
    unfinished_file = NULL;
    fprintf(stderr, "error: %s\n", message);
    if (output_folder && !failing) {
        failing = true; /* a report that cannot be written fails once */
        char *text = NULL;
        size_t size = 0;
        FILE *file = open_memstream(&text, &size);
        if (file) {
            fprintf(file, "{\n  \"error\": \"%s\",\n  \"message\": ", kind);
            write_json_string(file, message);
            fputs("\n}\n", file);
            fclose(file);
            write_whole("failure.json", text, size);
        }
    }
    exit(BAD_INPUT);
}

static void *allocate(size_t size) {
    void *memory = calloc(size ? size : 1, 1);
    if (!memory) fail(DEVICE, "not enough memory for %zu bytes", size);
    return memory;
}

__attribute__((format(printf, 1, 2))) static char *text_of(const char *format, ...) {
    char *text = NULL;
    va_list values;
    va_start(values, format);
    if (vasprintf(&text, format, values) < 0) fail(DEVICE, "not enough memory for a text");
    va_end(values);
    return text;
}

static void make_folders(const char *path) {
    char *partial = text_of("%s", path);
    for (char *at = partial + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            mkdir(partial, 0777);
            *at = '/';
        }
    mkdir(partial, 0777); /* what is wrong shows when a file is written there */
}

/* Write a file of the output folder under a temporary name and rename it; false with errno set. */
static bool write_whole(const char *name, const void *data, size_t size) {
    char *temporary = text_of("%s/.%s.XXXXXX", output_folder, name);
    int file = mkstemp(temporary);
    if (file < 0) return false;
    unfinished_file = temporary;
    bool good = true;
    for (size_t done = 0; good && done < size;) {
        ssize_t count = write(file, (const char *)data + done, size - done);
        if (count < 0 && errno == EINTR) continue;
        good = count > 0;
        done += good ? (size_t)count : 0;
    }
    good = fchmod(file, 0644) == 0 && good;
    good = close(file) == 0 && good; /* some file systems tell only now that they are full */
    good = good && rename(temporary, text_of("%s/%s", output_folder, name)) == 0;
    int cause = errno;
    if (!good) unlink(temporary);
    unfinished_file = NULL;
    errno = cause;
    return good;
}

static void write_result(const char *name, const void *data, size_t size) {
    if (write_whole(name, data, size)) return;
    if (errno == ENOSPC || errno == EDQUOT)
        fail(DEVICE, "no space left to write %s/%s: free some and run the same command again", output_folder, name);
    fail(DEVICE, "cannot write %s/%s: %s", output_folder, name, strerror(errno));
}

/* A small file, e.g. of /proc, cut at `most` bytes and ended by a zero; NULL when it cannot be read. */
static char *read_small(const char *path, size_t most, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    char *text = allocate(most + 1);
    size_t count = fread(text, 1, most, file);
    bool good = !ferror(file); /* a folder opens and does not read */
    fclose(file);
    if (size) *size = count;
    text[count] = 0;
    return good ? text : NULL;
}

static bool is_file(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return text_of(".");
    return slash == path ? text_of("/") : text_of("%.*s", (int)(slash - path), path);
}

static char *inside(const char *folder, const char *path) {
    return path[0] == '/' ? text_of("%s", path) : text_of("%s/%s", folder, path);
}

#endif
