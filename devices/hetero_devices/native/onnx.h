/* ONNX Runtime, by the part of its C interface that is needed. */
#ifndef HETERO_ONNX_H
#define HETERO_ONNX_H

#include "session.h"

/* Its interface is a table of functions that only ever grows; all of these are in it since version 1. */

#define ORT_VERSION 11  /* asked for: every runtime since 1.11 offers it */

enum { ORT_FATAL = 4, ORT_ARENA_ALLOCATOR = 1, ORT_DEFAULT_MEMORY = 0, ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_TENSOR = 1 };

typedef struct OrtStatus OrtStatus; /* NULL is success */
typedef struct OrtEnv OrtEnv;
typedef struct OrtOptions OrtOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtShape OrtShape; /* OrtTensorTypeAndShapeInfo */
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtAllocator OrtAllocator;

typedef struct {
    void *gap0[2];
    const char *(*GetErrorMessage)(const OrtStatus *); /* 2 */
    OrtStatus *(*CreateEnv)(int severity, const char *name, OrtEnv **); /* 3 */
    void *gap4[3];
    OrtStatus *(*CreateSession)(const OrtEnv *, const char *path, const OrtOptions *, OrtSession **); /* 7 */
    void *gap8[1];
    OrtStatus *(*Run)(OrtSession *, const void *run_options, const char *const *input_names,
                      const OrtValue *const *inputs, size_t input_count, const char *const *output_names,
                      size_t output_count, OrtValue **outputs); /* 9 */
    OrtStatus *(*CreateSessionOptions)(OrtOptions **); /* 10 */
    void *gap11[11];
    OrtStatus *(*SetSessionLogSeverityLevel)(OrtOptions *, int severity); /* 22 */
    void *gap23[1];
    OrtStatus *(*SetIntraOpNumThreads)(OrtOptions *, int threads); /* 24 */
    OrtStatus *(*SetInterOpNumThreads)(OrtOptions *, int threads); /* 25 */
    void *gap26[4];
    OrtStatus *(*SessionGetInputCount)(const OrtSession *, size_t *); /* 30 */
    OrtStatus *(*SessionGetOutputCount)(const OrtSession *, size_t *); /* 31 */
    void *gap32[1];
    OrtStatus *(*SessionGetInputTypeInfo)(const OrtSession *, size_t index, OrtTypeInfo **); /* 33 */
    OrtStatus *(*SessionGetOutputTypeInfo)(const OrtSession *, size_t index, OrtTypeInfo **); /* 34 */
    void *gap35[1];
    OrtStatus *(*SessionGetInputName)(const OrtSession *, size_t index, OrtAllocator *, char **); /* 36 */
    OrtStatus *(*SessionGetOutputName)(const OrtSession *, size_t index, OrtAllocator *, char **); /* 37 */
    void *gap38[11];
    OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *data, size_t bytes,
                                                 const int64_t *shape, size_t rank, int type,
                                                 OrtValue **); /* 49 */
    void *gap50[1];
    OrtStatus *(*GetTensorMutableData)(OrtValue *, void **data); /* 51 */
    void *gap52[3];
    OrtStatus *(*CastTypeInfoToTensorInfo)(const OrtTypeInfo *, const OrtShape **); /* 55: NULL for others */
    void *gap56[4];
    OrtStatus *(*GetTensorElementType)(const OrtShape *, int *type); /* 60 */
    OrtStatus *(*GetDimensionsCount)(const OrtShape *, size_t *rank); /* 61 */
    OrtStatus *(*GetDimensions)(const OrtShape *, int64_t *extents, size_t rank); /* 62: -1 is free */
    void *gap63[2];
    OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *, OrtShape **); /* 65 */
    void *gap66[3];
    OrtStatus *(*CreateCpuMemoryInfo)(int allocator, int memory, OrtMemoryInfo **); /* 69 */
    void *gap70[8];
    OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **); /* 78 */
    void *gap79[17];
    void (*ReleaseValue)(OrtValue *); /* 96 */
    void *gap97[1];
    void (*ReleaseTypeInfo)(OrtTypeInfo *); /* 98 */
    void (*ReleaseTensorTypeAndShapeInfo)(OrtShape *); /* 99 */
} OrtApi;

typedef struct {
    const OrtApi *(*GetApi)(uint32_t version); /* NULL when the runtime is older */
    const char *(*GetVersionString)(void);
} OrtApiBase;

/* A miscounted gap does not compile. */
#define ORT_AT(member, index) \
    typedef char ort_##member##_is_number_##index[offsetof(OrtApi, member) == (index) * sizeof(void *) ? 1 : -1]
ORT_AT(CreateSession, 7);
ORT_AT(SetSessionLogSeverityLevel, 22);
ORT_AT(SessionGetOutputName, 37);
ORT_AT(CreateTensorWithDataAsOrtValue, 49);
ORT_AT(GetTensorTypeAndShape, 65);
ORT_AT(CreateCpuMemoryInfo, 69);
ORT_AT(GetAllocatorWithDefaultOptions, 78);
ORT_AT(ReleaseTensorTypeAndShapeInfo, 99);

/* A session. */

enum { BLOCK = 32 }; /* images a call takes at most, as in onnx.py */

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

#endif
