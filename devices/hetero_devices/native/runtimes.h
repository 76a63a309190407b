/* The part of the two runtimes' C interfaces that runner.c uses, for libraries opened at run time. */
#ifndef HETERO_RUNTIMES_H
#define HETERO_RUNTIMES_H

#include <stddef.h>
#include <stdint.h>

/* ---- ONNX Runtime: a table of functions that only ever grows; all of these are in it since version 1 ---- */

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

/* ---- LiteRT 2.3 and later: before it, functions that make models did not take the environment ---- */

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

#endif
