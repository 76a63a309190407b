/* SHA-256 (FIPS 180-4). */
#ifndef HETERO_SHA256_H
#define HETERO_SHA256_H

#include "failing.h"

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

#endif
