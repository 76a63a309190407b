/* This machine: as cpu.py describes it. */
#ifndef HETERO_MACHINE_H
#define HETERO_MACHINE_H

#include "json.h"

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

#endif
