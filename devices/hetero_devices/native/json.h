/* JSON: a strict reader of small files (RFC 8259), and what writing needs. */
#ifndef HETERO_JSON_H
#define HETERO_JSON_H

#include "failing.h"

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

#endif
