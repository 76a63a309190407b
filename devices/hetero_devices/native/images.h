/* Images: a .npy of uint8 [N, H, W, 3] (NEP 1, versions 1 and 2). */
#ifndef HETERO_IMAGES_H
#define HETERO_IMAGES_H

#include "failing.h"

enum { MEASURED_IMAGES = 256 }; /* as in runner.py */

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

#endif
