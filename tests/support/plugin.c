// A plugin of WasmEdge's that calls itself wasi_nn, for tests: its one function gives the length of what --nn-preload
// says. The declarations are those of WasmEdge's C interface, as far as they are used.

#include <stdint.h>
#include <string.h>

typedef struct { uint32_t length; const char *bytes; } string;
typedef struct { uint8_t raw[8]; } type;
typedef struct { __uint128_t value; type type; } value;
typedef struct { uint32_t code; } result;
typedef struct { const char *name, *description; uint32_t type; void *storage; const void *otherwise; } option;
typedef struct module { const char *name, *description; void *(*make)(const struct module *); } module;
typedef struct {
    const char *name, *description;
    uint32_t api, version[4], modules, options;
    module *module;
    option *option;
} plugin;
enum { API = 4, STRING = 12 };

string WasmEdge_StringCreateByCString(const char *text);
type WasmEdge_ValTypeGenI32(void);
value WasmEdge_ValueGenI32(int32_t number);
void *WasmEdge_FunctionTypeCreate(const type *params, uint32_t count, const type *results, uint32_t result_count);
void *WasmEdge_FunctionInstanceCreate(const void *type, result (*)(void *, const void *, const value *, value *),
                                      void *data, uint64_t cost);
void *WasmEdge_ModuleInstanceCreate(string name);
void WasmEdge_ModuleInstanceAddFunction(void *module, string name, void *function);

static string preload;
static const string nothing = {0, ""};

static result loaded(void *data, const void *frame, const value *given, value *returned) {
    (void)data, (void)frame, (void)given;
    returned[0] = WasmEdge_ValueGenI32((int32_t)preload.length);
    return (result){0};
}

static void *make(const module *described) {
    void *made = WasmEdge_ModuleInstanceCreate(WasmEdge_StringCreateByCString(described->name));
    type number = WasmEdge_ValTypeGenI32();
    void *function = WasmEdge_FunctionInstanceCreate(WasmEdge_FunctionTypeCreate(0, 0, &number, 1), loaded, 0, 0);
    WasmEdge_ModuleInstanceAddFunction(made, WasmEdge_StringCreateByCString("loaded"), function);
    return made;
}

const plugin *WasmEdge_Plugin_GetDescriptor(void) {
    static module only = {"wasi_nn", "for tests", make};
    static option preloads = {"nn-preload", "for tests", STRING, &preload, &nothing};
    static plugin self = {"wasi_nn", "for tests", API, {0, 1, 0, 0}, 1, 1, &only, &preloads};
    return &self;
}
