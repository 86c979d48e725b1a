// hello-component: a component (WASI 0.2, "preview 2") that prints, and that says what it was told.
//
//     hello-component [ARGUMENT…]    the greeting, the arguments after the first (its own name), then the
//                                    environment as K=V
//     hello-component exit           the greeting, then exit with an error: WASI 0.2 knows no other code than 1
//
// Its frame is hello-component.wat; component.py puts the two together.

#include "component/component.h"

typedef struct {
    text name, value;
} variable;

typedef struct {
    const variable *items;
    size_t count;
} variables;

IMPORT("wasi:cli/environment@0.2.0", "get-environment")
void get_environment(variables *into);

IMPORT("wasi:cli/exit@0.2.0", "exit")
_Noreturn void exit_with(int32_t is_error);

static bool equal(text a, text b) {
    if (a.length != b.length) return false;
    for (size_t i = 0; i < a.length; i++)
        if (a.data[i] != b.data[i]) return false;
    return true;
}

static bool print_arguments(handle out, texts arguments) {
    bool well = true;
    for (size_t i = 1; i < arguments.count; i++)
        well = well && write_text(out, arguments.items[i]) && write_text(out, of_literal("\n"));
    return well;
}

static bool print_environment(handle out) {
    variables all;
    get_environment(&all);
    bool well = true;
    for (size_t i = 0; i < all.count; i++)
        well = well && write_text(out, all.items[i].name) && write_text(out, of_literal("=")) &&
               write_text(out, all.items[i].value) && write_text(out, of_literal("\n"));
    return well;
}

RUN bool run(void) {
    texts arguments;
    get_arguments(&arguments);
    handle out = get_stdout();
    bool well = write_text(out, of_literal("Hello from a component!\n"));
    if (arguments.count > 1 && equal(arguments.items[1], of_literal("exit"))) exit_with(1);
    well = well && print_arguments(out, arguments) && print_environment(out);
    stream_drop(out);
    return !well;
}
