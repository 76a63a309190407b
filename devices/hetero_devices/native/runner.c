/* The device runner in C, for phones and boards without Python: the verbs run, info and hold of `hetero-device`.
 *
 * One file that needs a C library and, at run time, libonnxruntime or libLiteRt. Each is looked for at
 * $HETERO_ONNXRUNTIME or $HETERO_LITERT, then beside this program, then where the system looks.
 * Build: cc -std=c99 -O2 runner.c -o hetero-runner -ldl -lm
 *
 * Every failure ends the process with exit code 2, one line on standard error and, once a job is understood,
 * failure.json in its output folder. A process does one thing and ends, so nothing is freed on the way.
 */
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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "runtimes.h"

enum { DONE = 0, BUSY = 1, BAD_INPUT = 2 };
enum { BLOCK = 32, MEASURED_IMAGES = 256, MEMORY_RUNS = 5 }; /* as in onnx.py, runner.py and measure.py */

/* ---- Failing: one line, and a report where the device's host looks for it ---- */

static const char MISSING[] = "MissingExtra", TRANSFER[] = "TransferError", DATA[] = "DataError",
                  MODEL[] = "ModelError", DEVICE[] = "DeviceError";

static const char *output_folder;   /* NULL until a job is understood */
static const char *unfinished_file; /* removed when the process fails while writing it */
static int caught_stream = -1;      /* the real standard error while that of a runtime is caught */

static bool write_whole(const char *name, const void *data, size_t size);
static void write_json_string(FILE *file, const char *text);
static void release_standard_error(void);

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

/* ---- Files ---- */

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

/* ---- SHA-256 (FIPS 180-4) ---- */

typedef struct {
    uint32_t state[8];
    uint8_t block[64];
    uint64_t bytes;
} Sha256;

static const uint32_t SHA_CONSTANTS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotated(uint32_t word, int bits) { return word >> bits | word << (32 - bits); }

static void sha_block(uint32_t state[8], const uint8_t *block) {
    uint32_t words[64], now[8];
    for (int i = 0; i < 16; i++)
        words[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
                   (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = words[i - 15], b = words[i - 2];
        words[i] = words[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + words[i - 7] +
                   (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
    }
    memcpy(now, state, sizeof now);
    for (int i = 0; i < 64; i++) {
        uint32_t a = now[0], e = now[4];
        uint32_t first = now[7] + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) +
                         ((e & now[5]) ^ (~e & now[6])) + SHA_CONSTANTS[i] + words[i];
        uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) +
                          ((a & now[1]) ^ (a & now[2]) ^ (now[1] & now[2]));
        memmove(now + 1, now, 7 * sizeof *now);
        now[4] += first;
        now[0] = first + second;
    }
    for (int i = 0; i < 8; i++) state[i] += now[i];
}

static void sha_start(Sha256 *sha) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sha->state, start, sizeof start);
    sha->bytes = 0;
}

static void sha_add(Sha256 *sha, const uint8_t *data, size_t size) {
    while (size) {
        size_t used = sha->bytes % 64, part = 64 - used < size ? 64 - used : size;
        memcpy(sha->block + used, data, part);
        sha->bytes += part, data += part, size -= part;
        if (used + part == 64) sha_block(sha->state, sha->block);
    }
}

/* Hex digest of what was added. */
static char *sha_end(Sha256 *sha) {
    uint64_t bits = sha->bytes * 8;
    uint8_t length[8];
    sha_add(sha, (const uint8_t *)"\x80", 1);
    while (sha->bytes % 64 != 56) sha_add(sha, (const uint8_t *)"", 1);
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha_add(sha, length, 8);
    char *hex = allocate(65);
    for (int i = 0; i < 8; i++) snprintf(hex + 8 * i, 9, "%08x", (unsigned)sha->state[i]);
    return hex;
}

/* Hex digest of a regular file; "" when it cannot be read. */
static char *sha_of_file(const char *path) {
    static uint8_t buffer[1 << 16];
    FILE *file = is_file(path) ? fopen(path, "rb") : NULL;
    if (!file) return text_of("%s", "");
    Sha256 sha;
    sha_start(&sha);
    for (size_t count; (count = fread(buffer, 1, sizeof buffer, file)) > 0;) sha_add(&sha, buffer, count);
    bool good = !ferror(file);
    fclose(file);
    return good ? sha_end(&sha) : text_of("%s", "");
}

/* ---- JSON: a strict reader of small files (RFC 8259), and what writing needs ---- */

enum { JSON_BYTES = 1 << 20, JSON_DEPTH = 16 };

typedef enum { JSON_NULL, JSON_BOOLEAN, JSON_NUMBER, JSON_STRING, JSON_LIST, JSON_OBJECT } JsonKind;

typedef struct Json {
    JsonKind kind;
    char *text;         /* of a string, or a number as it stands there */
    char *key;          /* of a member of an object */
    struct Json *items; /* the first, of a list or object */
    struct Json *next;  /* the next of the same list or object */
} Json;

typedef struct {
    const char *start, *at, *end; /* *end is zero */
    const char *path;
} Reader;

__attribute__((noreturn)) static void bad_json(const Reader *reader, const char *problem) {
    fail(DEVICE, "cannot read %s: %s at byte %zu", reader->path, problem, (size_t)(reader->at - reader->start));
}

static void skip_space(Reader *reader) {
    while (*reader->at == ' ' || *reader->at == '\t' || *reader->at == '\n' || *reader->at == '\r') reader->at++;
}

static unsigned hex_digits(Reader *reader) {
    unsigned code = 0;
    for (int i = 0; i < 4; i++, reader->at++) {
        int digit = (unsigned char)*reader->at;
        if (!isxdigit(digit)) bad_json(reader, "no four hexadecimal digits");
        code = code << 4 | (unsigned)(isdigit(digit) ? digit - '0' : tolower(digit) - 'a' + 10);
    }
    return code;
}

static char *put_utf8(char *to, unsigned code) {
    if (code < 0x80) {
        *to++ = (char)code;
        return to;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char leads[] = {0, 0xc0, 0xe0, 0xf0};
    *to++ = (char)(leads[more] | code >> 6 * more);
    while (more--) *to++ = (char)(0x80 | (code >> 6 * more & 0x3f));
    return to;
}

static unsigned escaped_code(Reader *reader) {
    unsigned code = hex_digits(reader);
    if (code >= 0xdc00 && code < 0xe000) bad_json(reader, "half a surrogate pair");
    if (code >= 0xd800 && code < 0xdc00) {
        if (reader->at[0] != '\\' || reader->at[1] != 'u') bad_json(reader, "half a surrogate pair");
        reader->at += 2;
        unsigned low = hex_digits(reader);
        if (low < 0xdc00 || low >= 0xe000) bad_json(reader, "half a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (!code) bad_json(reader, "a zero character");
    return code;
}

static char *read_string(Reader *reader) {
    if (*reader->at != '"') bad_json(reader, "no string");
    const char *start = ++reader->at;
    size_t room = 1; /* an escape is never shorter than what it stands for */
    for (const char *at = start; at < reader->end && *at != '"'; at += *at == '\\' && at + 1 < reader->end ? 2 : 1)
        room += 2;
    char *text = allocate(room), *to = text;
    while (*reader->at != '"') {
        unsigned char now = (unsigned char)*reader->at;
        if (reader->at >= reader->end) bad_json(reader, "an unterminated string");
        if (now < ' ') bad_json(reader, "a control character in a string");
        reader->at++;
        if (now != '\\') {
            *to++ = (char)now;
            continue;
        }
        static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
        const char *found = *reader->at ? strchr(escapes, *reader->at) : NULL;
        if (!found && *reader->at != 'u') bad_json(reader, "an unknown escape");
        reader->at++;
        if (found) *to++ = meanings[found - escapes];
        else to = put_utf8(to, escaped_code(reader));
    }
    reader->at++;
    return text;
}

static char *read_number(Reader *reader) {
    const char *start = reader->at;
    if (*reader->at == '-') reader->at++;
    if (*reader->at == '0') reader->at++;
    else if (*reader->at >= '1' && *reader->at <= '9') while (isdigit((unsigned char)*reader->at)) reader->at++;
    else bad_json(reader, "no value");
    if (*reader->at == '.') {
        if (!isdigit((unsigned char)*++reader->at)) bad_json(reader, "no digit after the point");
        while (isdigit((unsigned char)*reader->at)) reader->at++;
    }
    if (*reader->at == 'e' || *reader->at == 'E') {
        reader->at++;
        if (*reader->at == '+' || *reader->at == '-') reader->at++;
        if (!isdigit((unsigned char)*reader->at)) bad_json(reader, "no digit in the exponent");
        while (isdigit((unsigned char)*reader->at)) reader->at++;
    }
    char *text = allocate((size_t)(reader->at - start) + 1);
    memcpy(text, start, (size_t)(reader->at - start));
    return text;
}

static Json *read_value(Reader *reader, int depth);

static void read_items(Reader *reader, Json *parent, char close, int depth) {
    Json **last = &parent->items;
    if (depth >= JSON_DEPTH) bad_json(reader, "too many levels");
    reader->at++;
    skip_space(reader);
    if (*reader->at == close) {
        reader->at++;
        return;
    }
    for (;;) {
        char *key = NULL;
        skip_space(reader);
        if (parent->kind == JSON_OBJECT) {
            key = read_string(reader);
            skip_space(reader);
            if (*reader->at++ != ':') reader->at--, bad_json(reader, "no colon after a key");
        }
        *last = read_value(reader, depth + 1);
        (*last)->key = key;
        last = &(*last)->next;
        skip_space(reader);
        if (*reader->at == close) break;
        if (*reader->at != ',') bad_json(reader, "neither a comma nor an end");
        reader->at++;
    }
    reader->at++;
}

static Json *read_value(Reader *reader, int depth) {
    static const struct { const char *word; JsonKind kind; } words[] = {
        {"null", JSON_NULL}, {"true", JSON_BOOLEAN}, {"false", JSON_BOOLEAN}};
    Json *value = allocate(sizeof *value);
    skip_space(reader);
    for (size_t i = 0; i < 3; i++)
        if (!strncmp(reader->at, words[i].word, strlen(words[i].word))) {
            reader->at += strlen(words[i].word);
            value->kind = words[i].kind;
            value->text = text_of("%s", words[i].word);
            return value;
        }
    if (*reader->at == '"') {
        value->kind = JSON_STRING;
        value->text = read_string(reader);
    } else if (*reader->at == '{' || *reader->at == '[') {
        value->kind = *reader->at == '{' ? JSON_OBJECT : JSON_LIST;
        read_items(reader, value, *reader->at == '{' ? '}' : ']', depth);
    } else {
        value->kind = JSON_NUMBER;
        value->text = read_number(reader);
    }
    return value;
}

static Json *read_json(const char *path) {
    size_t size = 0;
    char *text = read_small(path, JSON_BYTES + 1, &size);
    if (!text && errno == ENOENT) fail(DEVICE, "%s does not exist", path);
    if (!text) fail(DEVICE, "cannot read %s: %s", path, strerror(errno));
    if (size > JSON_BYTES) fail(DEVICE, "cannot read %s: it is larger than %d bytes", path, JSON_BYTES);
    Reader reader = {text, text, text + size, path};
    Json *value = read_value(&reader, 0);
    skip_space(&reader);
    if (reader.at != reader.end) bad_json(&reader, "something after the value");
    return value;
}

/* Bytes of the UTF-8 character at `at`; 0 when there is none (overlong forms and surrogates are none). */
static int utf8_length(const unsigned char *at) {
    if (at[0] < 0x80) return 1;
    int length = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc2 || at[0] > 0xf4) return 0;
    for (int i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    bool bad = (at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) ||
               (at[0] == 0xf4 && at[1] > 0x8f);
    return bad ? 0 : length;
}

static void write_json_string(FILE *file, const char *text) {
    fputc('"', file);
    for (const unsigned char *at = (const unsigned char *)text; *at;) {
        int length = utf8_length(at);
        if (*at == '"' || *at == '\\') fprintf(file, "\\%c", *at);
        else if (*at < ' ') fprintf(file, "\\u%04x", *at);
        else if (length) fwrite(at, 1, (size_t)length, file);
        else fputc('?', file);
        at += length ? length : 1;
    }
    fputc('"', file);
}

static void write_json_text(FILE *file, const char *text) {
    if (text) write_json_string(file, text);
    else fputs("null", file);
}

static void write_json_number(FILE *file, double number) {
    if (isfinite(number)) fprintf(file, "%.17g", number);
    else fputs("null", file);
}

/* ---- The job ---- */

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

/* ---- Images: a .npy of uint8 [N, H, W, 3] (NEP 1, versions 1 and 2) ---- */

typedef struct {
    const uint8_t *pixels;
    size_t extents[4];
    size_t rank;
    const char *name;
} Images;

__attribute__((noreturn)) static void bad_images(const char *path, const char *problem) {
    fail(DATA, "cannot read the images %s: %s", path, problem);
}

static size_t product(size_t a, size_t b, const char *path) {
    if (b && a > SIZE_MAX / 4 / b) bad_images(path, "their shape is out of range");
    return a * b;
}

/* The place after `key` and a colon in the header's dictionary. */
static const char *header_field(const char *header, const char *key, const char *path) {
    const char *at = strstr(header, text_of("'%s':", key));
    if (!at) bad_images(path, "the header is damaged");
    at = strchr(at, ':') + 1;
    while (*at == ' ') at++;
    return at;
}

static void read_shape(Images *images, const char *at, const char *path) {
    if (*at++ != '(') bad_images(path, "the header is damaged");
    while (*at != ')') {
        char *end = NULL;
        errno = 0;
        unsigned long long extent = isdigit((unsigned char)*at) ? strtoull(at, &end, 10) : 0;
        if (!end || errno || extent > SIZE_MAX / 4) bad_images(path, "the header is damaged");
        if (images->rank == 4) fail(DATA, "images in %s have more than four axes, expected [N, H, W, 3]", name_of(path));
        images->extents[images->rank++] = (size_t)extent;
        at = end;
        while (*at == ',' || *at == ' ') at++;
    }
}

static Images parse_images(const uint8_t *file, size_t size, const char *path) {
    Images images = {.name = name_of(path)};
    if (size < 12 || memcmp(file, "\x93NUMPY", 6)) bad_images(path, "this is no .npy file");
    if (file[6] != 1 && file[6] != 2) bad_images(path, "its .npy version is not 1 or 2");
    size_t lead = file[6] == 1 ? 10 : 12;
    size_t length = file[8] | (size_t)file[9] << 8;
    if (file[6] == 2) length |= (size_t)file[10] << 16 | (size_t)file[11] << 24;
    if (length > size - lead || length > 1 << 16) bad_images(path, "the file is shorter than its header says");
    char *header = allocate(length + 1);
    memcpy(header, file + lead, length);
    const char *type = header_field(header, "descr", path);
    if (strncmp(type, "'|u1'", 5)) {
        int width = (int)strcspn(type, ",}");
        fail(DATA, "images in %s are %.*s, expected uint8: give the pixels 0..255", images.name, width < 40 ? width : 40, type);
    }
    if (strncmp(header_field(header, "fortran_order", path), "False", 5)) bad_images(path, "they are not in C order");
    read_shape(&images, header_field(header, "shape", path), path);
    size_t bytes = 1;
    for (size_t i = 0; i < images.rank; i++) bytes = product(bytes, images.extents[i], path);
    if (bytes > size - lead - length) bad_images(path, "the file is shorter than its header says");
    images.pixels = file + lead + length;
    return images;
}

static Images read_images(const char *path) {
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status)) bad_images(path, strerror(errno));
    if (!S_ISREG(status.st_mode) || !status.st_size) bad_images(path, "this is no .npy file");
    void *content = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (content == MAP_FAILED) bad_images(path, strerror(errno));
    close(file);
    return parse_images(content, (size_t)status.st_size, path);
}

static char *shape_text(const Images *images) {
    char *text = text_of("[");
    for (size_t i = 0; i < images->rank; i++) text = text_of("%s%s%zu", text, i ? ", " : "", images->extents[i]);
    return text_of("%s]", text);
}

static void check_images(const Images *images, size_t height, size_t width) {
    const size_t *extents = images->extents;
    if (images->rank != 4 || extents[1] != height || extents[2] != width || extents[3] != 3)
        fail(DATA, "images are uint8 %s, this model takes uint8 [N, %zu, %zu, 3]", shape_text(images), height, width);
}

/* The first images, copied into memory: a page fault is no part of an inference. */
static Images some_images(const Images *images) {
    Images some = *images;
    if (!images->rank || !images->extents[0]) fail(DATA, "measuring needs at least one image");
    if (some.extents[0] > MEASURED_IMAGES) some.extents[0] = MEASURED_IMAGES;
    size_t bytes = 1;
    for (size_t i = 0; i < some.rank; i++) bytes *= some.extents[i];
    uint8_t *copy = allocate(bytes);
    memcpy(copy, images->pixels, bytes);
    some.pixels = copy;
    return some;
}

/* ---- Sessions: what both runtimes offer ---- */

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

static void *open_library(const char *variable, const char *file, const char *runtime);

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

/* ---- ONNX Runtime ---- */

typedef struct {
    const OrtApi *api;
    OrtSession *session;
    OrtMemoryInfo *memory;
} Ort;

static const OrtApiBase *ort_base(void) {
    void *library = open_library("HETERO_ONNXRUNTIME", "libonnxruntime.so", "ONNX Runtime");
    /* POSIX lets an object pointer hold a function's address; C does not know it. */
    const OrtApiBase *(*base)(void) = NULL;
    *(void **)&base = dlsym(library, "OrtGetApiBase");
    if (!base) fail(DEVICE, "the library of ONNX Runtime lacks OrtGetApiBase: it is another library");
    return base();
}

static void ort_check(const OrtApi *api, OrtStatus *status, const char *what, const char *model) {
    if (status) fail(MODEL, "%s %s with ONNX Runtime: %.300s", what, model, api->GetErrorMessage(status));
}

/* Type and extents of a port; type 0 and rank 9 when it is no tensor of at most 8 axes. */
static void ort_port(const OrtApi *api, OrtTypeInfo *info, int *type, int64_t extents[8], size_t *rank) {
    const OrtShape *shape = NULL;
    *type = 0, *rank = 9;
    ort_check(api, api->CastTypeInfoToTensorInfo(info, &shape), "cannot inspect", "the model");
    if (!shape) return;
    ort_check(api, api->GetTensorElementType(shape, type), "cannot inspect", "the model");
    ort_check(api, api->GetDimensionsCount(shape, rank), "cannot inspect", "the model");
    if (*rank <= 8) ort_check(api, api->GetDimensions(shape, extents, *rank), "cannot inspect", "the model");
    api->ReleaseTypeInfo(info);
}

static void ort_contract(const Ort *ort, Session *session) {
    const OrtApi *api = ort->api;
    OrtAllocator *allocator = NULL;
    OrtTypeInfo *info = NULL;
    char *name = NULL;
    int type;
    int64_t extents[8];
    size_t count = 0, rank;
    const char *model = session->model;
    ort_check(api, api->GetAllocatorWithDefaultOptions(&allocator), "cannot inspect", model);
    ort_check(api, api->SessionGetInputCount(ort->session, &count), "cannot inspect", model);
    bool good = count == 1;
    if (good) {
        ort_check(api, api->SessionGetInputName(ort->session, 0, allocator, &name), "cannot inspect", model);
        ort_check(api, api->SessionGetInputTypeInfo(ort->session, 0, &info), "cannot inspect", model);
        ort_port(api, info, &type, extents, &rank);
        good = !strcmp(name, "image") && type == ORT_UINT8 && rank == 4 && extents[0] < 0 && extents[1] > 0 &&
               extents[2] > 0 && extents[3] == 3;
    }
    if (!good)
        fail(MODEL, "%s has other inputs, expected one input image: tensor(uint8) [batch, H, W, 3] with a free batch: "
                    "export it with 'hetero export'", model);
    session->height = (size_t)extents[1], session->width = (size_t)extents[2];
    ort_check(api, api->SessionGetOutputCount(ort->session, &count), "cannot inspect", model);
    good = count == 1;
    if (good) {
        ort_check(api, api->SessionGetOutputName(ort->session, 0, allocator, &name), "cannot inspect", model);
        ort_check(api, api->SessionGetOutputTypeInfo(ort->session, 0, &info), "cannot inspect", model);
        ort_port(api, info, &type, extents, &rank);
        good = !strcmp(name, "embedding") && type == ORT_FLOAT && rank == 2 && extents[1] > 0;
    }
    if (!good)
        fail(MODEL, "%s has other outputs, expected one output embedding: tensor(float) [batch, D]: "
                    "export it with 'hetero export'", model);
    session->dim = (size_t)extents[1];
}

static void ort_run(Session *session, const uint8_t *pixels, size_t count, float *embeddings) {
    static const char *const input = "image", *const output = "embedding";
    const Ort *ort = session->state;
    const OrtApi *api = ort->api;
    int64_t shape[4] = {(int64_t)count, (int64_t)session->height, (int64_t)session->width, 3}, extents[8];
    size_t bytes = count * session->height * session->width * 3, rank = 0;
    OrtValue *images = NULL, *result = NULL;
    OrtShape *info = NULL;
    void *data = NULL;
    int type = 0;
    /* The interface has no read-only tensors; an input is not written to. */
    ort_check(api, api->CreateTensorWithDataAsOrtValue(ort->memory, (void *)(uintptr_t)pixels, bytes, shape, 4,
                                                       ORT_UINT8, &images), "cannot run", session->model);
    ort_check(api, api->Run(ort->session, NULL, &input, (const OrtValue *const *)&images, 1, &output, 1, &result),
              "cannot run", session->model);
    ort_check(api, api->GetTensorTypeAndShape(result, &info), "cannot run", session->model);
    ort_check(api, api->GetTensorElementType(info, &type), "cannot run", session->model);
    ort_check(api, api->GetDimensionsCount(info, &rank), "cannot run", session->model);
    if (rank == 2) ort_check(api, api->GetDimensions(info, extents, rank), "cannot run", session->model);
    if (type != ORT_FLOAT || rank != 2 || extents[0] != shape[0] || extents[1] != (int64_t)session->dim)
        fail(MODEL, "%s gave another shape for %zu images, expected float32 [%zu, %zu]", session->model, count, count,
             session->dim);
    ort_check(api, api->GetTensorMutableData(result, &data), "cannot run", session->model);
    memcpy(embeddings, data, count * session->dim * sizeof(float));
    api->ReleaseTensorTypeAndShapeInfo(info);
    api->ReleaseValue(result);
    api->ReleaseValue(images);
}

/* Load a model; `base` comes from `ort_base`, called before because opening a library is no part of loading. */
static Session *ort_load(const void *base, const char *path, int threads) {
    const OrtApi *api = ((const OrtApiBase *)base)->GetApi(ORT_VERSION);
    const char *model = name_of(path);
    if (!api) fail(DEVICE, "this ONNX Runtime is older than 1.%d: install a newer one", ORT_VERSION);
    OrtEnv *environment = NULL;
    OrtOptions *options = NULL;
    Ort *ort = allocate(sizeof *ort);
    Session *session = allocate(sizeof *session);
    *session = (Session){.runtime = "onnxruntime", .version = ((const OrtApiBase *)base)->GetVersionString(),
                         .input_type = "uint8", .block = BLOCK, .run = ort_run, .model = model,
                         .state = ort};
    ort->api = api;
    ort_check(api, api->CreateEnv(ORT_FATAL, "hetero", &environment), "cannot load", model);
    ort_check(api, api->CreateSessionOptions(&options), "cannot load", model);
    ort_check(api, api->SetSessionLogSeverityLevel(options, ORT_FATAL), "cannot load", model);
    ort_check(api, api->SetIntraOpNumThreads(options, threads), "cannot load", model);
    ort_check(api, api->SetInterOpNumThreads(options, 1), "cannot load", model);
    ort_check(api, api->CreateSession(environment, path, options, &ort->session), "cannot load", model);
    ort_check(api, api->CreateCpuMemoryInfo(ORT_ARENA_ALLOCATOR, ORT_DEFAULT_MEMORY, &ort->memory), "cannot load", model);
    ort_contract(ort, session);
    return session;
}

/* ---- LiteRT ---- */

typedef struct {
    const LiteRtApi *api;
    LiteRt environment, model, compiled, input, output;
    int threads;
    int input_type, output_type;
    float zero_point; /* of the output */
} Lite;

/* The functions of libLiteRt. */
static const void *lite_api(void) {
    static LiteRtApi api;
    void *library = open_library("HETERO_LITERT", "libLiteRt.so", "LiteRT");
#define LITERT_FIND(result, name, parameters)                                                        \
    *(void **)&api.name = dlsym(library, #name);                                                    \
    if (!api.name) fail(DEVICE, "the library of LiteRT lacks " #name ": it is older than 2.3, install a newer one");
    LITERT_FUNCTIONS(LITERT_FIND)
#undef LITERT_FIND
    return &api;
}

/* The last of the caught lines that tells of an error, without the runtime's prefix. */
static char *lite_reason(int status) {
    char *reason = NULL;
    for (char *line = strtok(caught_text(), "\n"); line; line = strtok(NULL, "\n"))
        if (strstr(line, "ERROR") || strstr(line, "rror:")) reason = line;
    return reason ? text_of("%.200s", reason) : text_of("status %d", status);
}

static void lite_check(int status, const char *what, const char *model) {
    if (status == LITERT_OK) return;
    char *reason = lite_reason(status);
    fail(MODEL, "%s %s with LiteRT: %s", what, model, reason);
}

static const char *lite_type_name(int type) {
    return type == LITERT_FLOAT32 ? "float32" : type == LITERT_UINT8 ? "uint8" : type == LITERT_INT8 ? "int8" : "another type";
}

static int lite_rank(const LiteRtTensorType *type) { return (int)(type->rank & 127); }

static char *lite_describe(const LiteRtTensorType *type, const LiteRtQuantisation *quantisation) {
    char *text = text_of("[");
    for (int i = 0; i < lite_rank(type) && i < 8; i++) text = text_of("%s%s%d", text, i ? ", " : "", type->extents[i]);
    return text_of("%s] %s (scale %g, zero point %lld)", text, lite_type_name(type->type), (double)quantisation->scale,
                   (long long)quantisation->zero_point);
}

static LiteRtTensorType lite_tensor(const LiteRtApi *api, LiteRt tensor, LiteRtQuantisation *quantisation, const char *model) {
    LiteRtTensorType type = {0};
    int kind = 0;
    *quantisation = (LiteRtQuantisation){0, 0};
    lite_check(api->LiteRtGetRankedTensorType(tensor, &type), "cannot inspect", model);
    lite_check(api->LiteRtGetQuantizationTypeId(tensor, &kind), "cannot inspect", model);
    if (kind == LITERT_PER_TENSOR)
        lite_check(api->LiteRtGetPerTensorQuantization(tensor, quantisation), "cannot inspect", model);
    return type;
}

/* How the bytes 0..255 may enter, as in litert.py. */
static bool lite_is_image(const LiteRtTensorType *type, const LiteRtQuantisation *quantisation) {
    bool plain = quantisation->scale == 0.0f && quantisation->zero_point == 0;
    bool bytes = quantisation->scale == 1.0f && quantisation->zero_point == 0;
    bool shifted = quantisation->scale == 1.0f && quantisation->zero_point == -128;
    bool fits = (type->type == LITERT_FLOAT32 && plain) || (type->type == LITERT_UINT8 && (plain || bytes)) ||
                (type->type == LITERT_INT8 && shifted);
    const int32_t *extents = type->extents;
    return fits && lite_rank(type) == 4 && extents[0] == 1 && extents[1] > 0 && extents[2] > 0 && extents[3] == 3;
}

static bool lite_is_embedding(const LiteRtTensorType *type, const LiteRtQuantisation *quantisation) {
    bool codes = (type->type == LITERT_INT8 || type->type == LITERT_UINT8) && quantisation->scale > 0;
    return (codes || type->type == LITERT_FLOAT32) && lite_rank(type) == 2 && type->extents[0] == 1 && type->extents[1] > 0;
}

/* The tensors `image` and `embedding` of the only signature. */
static void lite_ports(const LiteRtApi *api, LiteRt model, const char *name, LiteRt *input, LiteRt *output) {
    LiteRt signature = NULL;
    size_t signatures = 0, inputs = 0, outputs = 0;
    const char *input_name = "", *output_name = "";
    lite_check(api->LiteRtGetNumModelSignatures(model, &signatures), "cannot inspect", name);
    if (signatures == 1) {
        lite_check(api->LiteRtGetModelSignature(model, 0, &signature), "cannot inspect", name);
        lite_check(api->LiteRtGetNumSignatureInputs(signature, &inputs), "cannot inspect", name);
        lite_check(api->LiteRtGetNumSignatureOutputs(signature, &outputs), "cannot inspect", name);
    }
    if (inputs == 1 && outputs == 1) {
        lite_check(api->LiteRtGetSignatureInputName(signature, 0, &input_name), "cannot inspect", name);
        lite_check(api->LiteRtGetSignatureOutputName(signature, 0, &output_name), "cannot inspect", name);
    }
    if (strcmp(input_name, "image") || strcmp(output_name, "embedding"))
        fail(MODEL, "%s has other signatures, expected one signature with input image and output embedding: "
                    "export it with 'hetero export'", name);
    lite_check(api->LiteRtGetSignatureInputTensorByIndex(signature, 0, input), "cannot inspect", name);
    lite_check(api->LiteRtGetSignatureOutputTensorByIndex(signature, 0, output), "cannot inspect", name);
}

static void lite_contract(Lite *lite, Session *session, LiteRtTensorType *input, LiteRtTensorType *output, LiteRt model) {
    LiteRt source = NULL, target = NULL;
    LiteRtQuantisation quantisation;
    lite_ports(lite->api, model, session->model, &source, &target);
    *input = lite_tensor(lite->api, source, &quantisation, session->model);
    if (!lite_is_image(input, &quantisation))
        fail(MODEL, "%s has input %s, expected [1, H, W, 3] float32, uint8 of scale 1, or int8 of scale 1 and zero point "
                    "-128: export it with 'hetero export'", session->model, lite_describe(input, &quantisation));
    *output = lite_tensor(lite->api, target, &quantisation, session->model);
    if (!lite_is_embedding(output, &quantisation))
        fail(MODEL, "%s has output %s, expected [1, D] float32, or int8 or uint8 with a scale: export it with "
                    "'hetero export'", session->model, lite_describe(output, &quantisation));
    lite->input_type = input->type, lite->output_type = output->type;
    lite->zero_point = (float)quantisation.zero_point;
    session->input_type = lite_type_name(input->type);
    session->height = (size_t)input->extents[1], session->width = (size_t)input->extents[2];
    session->dim = (size_t)output->extents[1];
}

static void lite_enter(const Lite *lite, const uint8_t *pixels, size_t count, void *to) {
    if (lite->input_type == LITERT_UINT8) memcpy(to, pixels, count);
    for (size_t i = 0; lite->input_type == LITERT_INT8 && i < count; i++) ((uint8_t *)to)[i] = pixels[i] ^ 0x80;
    for (size_t i = 0; lite->input_type == LITERT_FLOAT32 && i < count; i++) ((float *)to)[i] = pixels[i];
}

/* The embedding; of codes their direction: the scale does not matter, the zero point does.
 * float32 as in litert.py; a sum of squares below 2^24 is exact there, in whatever order. */
static void lite_leave(const Lite *lite, const void *from, size_t dim, float *embedding) {
    if (lite->output_type == LITERT_FLOAT32) {
        memcpy(embedding, from, dim * sizeof(float));
        return;
    }
    double sum = 0;
    for (size_t i = 0; i < dim; i++) {
        int code = lite->output_type == LITERT_UINT8 ? ((const uint8_t *)from)[i] : ((const int8_t *)from)[i];
        embedding[i] = (float)code - lite->zero_point;
        sum += (double)embedding[i] * embedding[i];
    }
    float length = sqrtf((float)sum + 1e-12f);
    for (size_t i = 0; i < dim; i++) embedding[i] /= length;
}

static void lite_run(Session *session, const uint8_t *pixels, size_t count, float *embeddings) {
    Lite *lite = session->state;
    const LiteRtApi *api = lite->api;
    size_t size = session->height * session->width * 3;
    void *memory = NULL;
    for (size_t row = 0; row < count; row++) {
        lite_check(api->LiteRtLockTensorBuffer(lite->input, &memory, LITERT_WRITE), "cannot run", session->model);
        lite_enter(lite, pixels + row * size, size, memory);
        lite_check(api->LiteRtUnlockTensorBuffer(lite->input), "cannot run", session->model);
        lite_check(api->LiteRtRunCompiledModel(lite->compiled, 0, 1, &lite->input, 1, &lite->output), "cannot run",
                   session->model);
        lite_check(api->LiteRtLockTensorBuffer(lite->output, &memory, LITERT_READ), "cannot run", session->model);
        lite_leave(lite, memory, session->dim, embeddings + row * session->dim);
        lite_check(api->LiteRtUnlockTensorBuffer(lite->output), "cannot run", session->model);
    }
}

static LiteRt lite_options(const LiteRtApi *api, int threads, const char *model) {
    LiteRt options = NULL, cpu = NULL;
    lite_check(api->LiteRtCreateOptions(&options), "cannot load", model);
    lite_check(api->LiteRtSetOptionsHardwareAccelerators(options, LITERT_CPU), "cannot load", model);
    char *toml = text_of("num_threads = %d\n", threads);
    lite_check(api->LiteRtCreateOpaqueOptions("xnnpack", toml, free, &cpu), "cannot load", model);
    lite_check(api->LiteRtAddOpaqueOptions(options, cpu), "cannot load", model);
    return options;
}

/* A runtime's list of the operators it ran, in order; NULL when it does not tell.
 * It costs a second compilation, with profiling on, so that what is measured and embedded has none. */
static const char *lite_profile(Lite *lite, const char *model) {
    const LiteRtApi *api = lite->api;
    LiteRt options = lite_options(api, lite->threads, model), more = NULL, compiled = NULL, profiler = NULL;
    const char *summary = NULL;
    char *toml = text_of("enable_profiling = true\n");
    bool good = api->LiteRtCreateOpaqueOptions("runtime_options_string", toml, free, &more) == LITERT_OK &&
                api->LiteRtAddOpaqueOptions(options, more) == LITERT_OK &&
                api->LiteRtCreateCompiledModel(lite->environment, lite->model, options, &compiled) == LITERT_OK &&
                api->LiteRtCompiledModelGetProfiler(compiled, &profiler) == LITERT_OK && profiler &&
                api->LiteRtStartProfiler(profiler) == LITERT_OK &&
                api->LiteRtRunCompiledModel(compiled, 0, 1, &lite->input, 1, &lite->output) == LITERT_OK &&
                api->LiteRtStopProfiler(profiler) == LITERT_OK &&
                api->LiteRtGetProfileSummary(profiler, compiled, &summary) == LITERT_OK;
    return good ? summary : NULL;
}

/* The list names operators of XNNPACK `[Delegate]:i`, counted from 0 in each partition, and puts those alike in one
 * line with how many there were: so the partitions are those called [Delegate]:0. */
static int lite_partitions(Session *session) {
    int partitions = 0;
    bool understood = false;
    catch_standard_error();
    const char *summary = lite_profile(session->state, session->model);
    release_standard_error();
    const char *end = summary ? strstr(summary, "Top by Computation Time") : NULL;
    for (const char *line = summary; end && line && line < end; line = (line = strchr(line, '\n')) ? line + 1 : NULL) {
        char *text = text_of("%.*s", (int)strcspn(line, "\n"), line), *name = strrchr(text, '[');
        bool first = name && !strcmp(name, "[Delegate]:0");
        understood |= name && (!strncmp(name, "[Delegate]:", 11) || !strncmp(name, "[Builtin]:", 10));
        while (first && name > text && name[-1] == ' ') *--name = 0;
        if (first) partitions += atoi(strrchr(text, ' ') ? strrchr(text, ' ') : "0");
    }
    return understood ? partitions : -1;
}

/* Load a model; `api` comes from `lite_api`, called before because opening a library is no part of loading. */
static Session *lite_load(const void *functions, const char *path, int threads) {
    static const LiteRtOption settings[] = {{LITERT_ACCELERATORS, {LITERT_INTEGER, LITERT_CPU}},
                                            {LITERT_MINIMUM_SEVERITY, {LITERT_INTEGER, LITERT_INFO}}};
    const LiteRtApi *api = functions;
    const char *name = name_of(path);
    Lite *lite = allocate(sizeof *lite);
    Session *session = allocate(sizeof *session);
    *session = (Session){.runtime = "litert", .block = 1, .run = lite_run,
                         .partitions = lite_partitions, .model = name, .state = lite};
    lite->api = api;
    lite->threads = threads;
    LiteRt environment = NULL, model = NULL, needs = NULL;
    LiteRtTensorType input, output;
    catch_standard_error();
    lite_check(api->LiteRtCreateEnvironment(2, settings, &environment), "cannot load", name);
    lite_check(api->LiteRtCreateModelFromFile(environment, path, &model), "cannot load", name);
    lite_contract(lite, session, &input, &output, model);
    lite_check(api->LiteRtCreateCompiledModel(environment, model, lite_options(api, threads, name), &lite->compiled),
               "cannot load", name);
    lite_check(api->LiteRtGetCompiledModelInputBufferRequirements(lite->compiled, 0, 0, &needs), "cannot load", name);
    lite_check(api->LiteRtCreateManagedTensorBufferFromRequirements(environment, &input, needs, &lite->input),
               "cannot load", name);
    lite_check(api->LiteRtGetCompiledModelOutputBufferRequirements(lite->compiled, 0, 0, &needs), "cannot load", name);
    lite_check(api->LiteRtCreateManagedTensorBufferFromRequirements(environment, &output, needs, &lite->output),
               "cannot load", name);
    lite->environment = environment, lite->model = model;
    release_standard_error();
    return session;
}

/* ---- Finding the runtimes ---- */

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

/* ---- Measuring: the rule of measure.py ---- */

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

/* ---- This machine: as cpu.py describes it ---- */

static const char *const FLAGS[] = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
                                    "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"};

typedef struct {
    double temperature_c, clock_mhz; /* NAN: this machine does not tell */
} Condition;

/* A number in a one-line file, times `scale`; NAN when there is none. */
static double number_in(const char *path, double scale) {
    char *end, *text = read_small(path, 64, NULL);
    if (!text) return NAN;
    double number = strtod(text, &end);
    return end == text ? NAN : number * scale;
}

static Condition condition(void) {
    Condition now = {NAN, NAN};
    double sum = 0;
    int clocks = 0;
    for (int i = 0; i < 256; i++) {
        double heat = number_in(text_of("/sys/class/thermal/thermal_zone%d/temp", i), 1e-3);
        if (isfinite(heat) && !(now.temperature_c >= heat)) now.temperature_c = heat;
        double clock = number_in(text_of("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", i), 1e-3);
        if (isfinite(clock)) sum += clock, clocks++;
    }
    if (clocks) now.clock_mhz = sum / clocks;
    return now;
}

/* The first value of a key in /proc/cpuinfo; NULL when absent or empty. */
static char *cpu_field(const char *text, const char *key) {
    size_t length = strlen(key);
    for (const char *line = text; line; line = (line = strchr(line, '\n')) ? line + 1 : NULL) {
        if (strncmp(line, key, length)) continue;
        const char *at = line + length;
        while (*at == ' ' || *at == '\t') at++;
        if (*at++ != ':') continue;
        while (*at == ' ' || *at == '\t') at++;
        return *at && *at != '\n' ? text_of("%.*s", (int)strcspn(at, "\n"), at) : NULL;
    }
    return NULL;
}

static char *cpu_model(const char *text) {
    static const char *const keys[] = {"model name", "Hardware", "Model"};
    for (int i = 0; i < 3; i++) {
        char *value = cpu_field(text, keys[i]);
        if (value) return value;
    }
    char *part = cpu_field(text, "CPU part"), *maker = cpu_field(text, "CPU implementer");
    return part ? text_of("implementer %s part %s", maker ? maker : "?", part) : NULL;
}

static void write_flags(FILE *file, const char *text) {
    char *flags = cpu_field(text, "flags");
    if (!flags) flags = cpu_field(text, "Features");
    if (!flags) {
        fputs("null", file);
        return;
    }
    const char *separator = "";
    char *padded = text_of(" %s ", flags);
    fputc('[', file);
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++)
        if (strstr(padded, text_of(" %s ", FLAGS[i]))) {
            fprintf(file, "%s\"%s\"", separator, FLAGS[i]);
            separator = ", ";
        }
    fputc(']', file);
}

static void write_cpu(FILE *file) {
    struct utsname system;
    cpu_set_t usable;
    char *text = read_small("/proc/cpuinfo", 1 << 20, NULL);
    char *governor = read_small("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", 64, NULL);
    uname(&system);
    fputs("{\"machine\": ", file);
    write_json_text(file, system.machine);
    fputs(", \"model\": ", file);
    write_json_text(file, text ? cpu_model(text) : NULL);
    bool counted = sched_getaffinity(0, sizeof usable, &usable) == 0;
    fprintf(file, ", \"cores\": %d, \"flags\": ", counted ? CPU_COUNT(&usable) : 1);
    write_flags(file, text ? text : "");
    if (governor) governor[strcspn(governor, "\n")] = 0;
    fputs(", \"governor\": ", file);
    write_json_text(file, governor && *governor ? governor : NULL);
    fputc('}', file);
}

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
