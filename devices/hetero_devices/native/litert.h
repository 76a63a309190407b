/* LiteRT 2.3 and later, by the part of its C interface that is needed. */
#ifndef HETERO_LITERT_H
#define HETERO_LITERT_H

#include "session.h"

/* Before 2.3, functions that make models did not take the environment. */

enum { LITERT_OK = 0, LITERT_CPU = 1, LITERT_READ = 0, LITERT_WRITE = 1, LITERT_PER_TENSOR = 1 };
enum { LITERT_FLOAT32 = 1, LITERT_UINT8 = 3, LITERT_INT8 = 9 };
enum { LITERT_ACCELERATORS = 24, LITERT_MINIMUM_SEVERITY = 25, LITERT_INTEGER = 2, LITERT_INFO = 1 };

typedef void *LiteRt; /* any of its handles */

typedef struct {
    int type; /* LITERT_FLOAT32 ... */
    uint32_t rank; /* the lowest 7 bits; bit 7: whether there are strides */
    int32_t extents[8];
    uint32_t strides[8];
} LiteRtTensorType;

typedef struct {
    float scale;
    int64_t zero_point;
} LiteRtQuantisation;

typedef struct {
    int tag; /* LITERT_ACCELERATORS ... */
    struct {
        int type; /* LITERT_INTEGER */
        int64_t value;
    } any;
} LiteRtOption;

/* X(result, name, parameters): the functions looked up; every one must be there. */
#define LITERT_FUNCTIONS(X) \
    X(int, LiteRtCreateEnvironment, (int count, const LiteRtOption *, LiteRt *environment)) \
    X(int, LiteRtCreateModelFromFile, (LiteRt environment, const char *path, LiteRt *model)) \
    X(int, LiteRtCreateOptions, (LiteRt *options)) \
    X(int, LiteRtSetOptionsHardwareAccelerators, (LiteRt options, int accelerators)) \
    X(int, LiteRtCreateOpaqueOptions, (const char *name, void *toml, void (*release)(void *), LiteRt *opaque)) \
    X(int, LiteRtAddOpaqueOptions, (LiteRt options, LiteRt opaque)) \
    X(int, LiteRtCreateCompiledModel, (LiteRt environment, LiteRt model, LiteRt options, LiteRt *compiled)) \
    X(int, LiteRtGetNumModelSignatures, (LiteRt model, size_t *)) \
    X(int, LiteRtGetModelSignature, (LiteRt model, size_t index, LiteRt *signature)) \
    X(int, LiteRtGetNumSignatureInputs, (LiteRt signature, size_t *)) \
    X(int, LiteRtGetNumSignatureOutputs, (LiteRt signature, size_t *)) \
    X(int, LiteRtGetSignatureInputName, (LiteRt signature, size_t index, const char **)) \
    X(int, LiteRtGetSignatureOutputName, (LiteRt signature, size_t index, const char **)) \
    X(int, LiteRtGetSignatureInputTensorByIndex, (LiteRt signature, size_t index, LiteRt *tensor)) \
    X(int, LiteRtGetSignatureOutputTensorByIndex, (LiteRt signature, size_t index, LiteRt *tensor)) \
    X(int, LiteRtGetRankedTensorType, (LiteRt tensor, LiteRtTensorType *)) \
    X(int, LiteRtGetQuantizationTypeId, (LiteRt tensor, int *)) \
    X(int, LiteRtGetPerTensorQuantization, (LiteRt tensor, LiteRtQuantisation *)) \
    X(int, LiteRtGetCompiledModelInputBufferRequirements, (LiteRt, size_t signature, size_t index, LiteRt *)) \
    X(int, LiteRtGetCompiledModelOutputBufferRequirements, (LiteRt, size_t signature, size_t index, LiteRt *)) \
    X(int, LiteRtCreateManagedTensorBufferFromRequirements, \
      (LiteRt environment, const LiteRtTensorType *, LiteRt requirements, LiteRt *buffer)) \
    X(int, LiteRtLockTensorBuffer, (LiteRt buffer, void **data, int mode)) \
    X(int, LiteRtUnlockTensorBuffer, (LiteRt buffer)) \
    X(int, LiteRtRunCompiledModel, \
      (LiteRt compiled, size_t signature, size_t inputs, LiteRt *, size_t outputs, LiteRt *)) \
    X(int, LiteRtCompiledModelGetProfiler, (LiteRt compiled, LiteRt *profiler)) \
    X(int, LiteRtStartProfiler, (LiteRt profiler)) \
    X(int, LiteRtStopProfiler, (LiteRt profiler)) \
    X(int, LiteRtGetProfileSummary, (LiteRt profiler, LiteRt compiled, const char **text)) \
    X(int, LiteRtGetBlockWiseQuantization, (void)) /* never called: came with the change of 2.3 */

typedef struct {
#define LITERT_MEMBER(result, name, parameters) result(*name) parameters;
    LITERT_FUNCTIONS(LITERT_MEMBER)
#undef LITERT_MEMBER
} LiteRtApi;

/* A session. */

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

/* The last of the caught lines that tells of trouble; without one, the status. */
static char *lite_reason(int status) {
    char *reason = NULL;
    for (char *line = strtok(caught_text(), "\n"); line; line = strtok(NULL, "\n"))
        if (strncmp(line, "INFO", 4)) reason = line;
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

#endif
