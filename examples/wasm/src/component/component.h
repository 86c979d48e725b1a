// What the components written in C share: the shapes in which the canonical ABI hands over values, and the
// few calls that each of them makes. A component's frame (the .wat of the same name) connects each import
// below to the WASI interface of that name; what a program does not use is not in its binary, nor in its frame.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))

// The function that the frame lifts to `run` of wasi:cli/run. It answers false for `ok` and true for `err`.
#define RUN __attribute__((export_name("run")))

// A handle to something that the host holds: a stream, a socket, a pollable.
typedef int32_t handle;

// list<u8> and string.
typedef struct {
    const char *data;
    size_t length;
} text;

// list<string>
typedef struct {
    const text *items;
    size_t count;
} texts;

// Room for a result<_, stream-error>: the case, then the error's case and, with LAST_OPERATION_FAILED, a handle.
typedef struct {
    uint8_t is_error;
    struct {
        uint8_t kind;
        handle detail;
    } error;
} stream_result;
enum { LAST_OPERATION_FAILED = 0 };

IMPORT("wasi:cli/environment@0.2.0", "get-arguments")
void get_arguments(texts *into);

IMPORT("wasi:cli/stdout@0.2.0", "get-stdout")
handle get_stdout(void);

IMPORT("wasi:io/streams@0.2.0", "[method]output-stream.blocking-write-and-flush")
void stream_write(handle stream, const char *data, size_t length, stream_result *result);

IMPORT("wasi:io/streams@0.2.0", "[resource-drop]output-stream")
void stream_drop(handle stream);

IMPORT("wasi:io/streams@0.2.0", "[resource-drop]input-stream")
void input_drop(handle stream);

IMPORT("wasi:io/error@0.2.0", "[resource-drop]error")
void error_drop(handle error);

IMPORT("wasi:io/poll@0.2.0", "[method]pollable.block")
void pollable_block(handle pollable);

IMPORT("wasi:io/poll@0.2.0", "[resource-drop]pollable")
void pollable_drop(handle pollable);

// One call takes at most so many bytes.
enum { WRITE_MOST = 4096 };

static inline bool succeeded(stream_result result) {
    if (result.is_error && result.error.kind == LAST_OPERATION_FAILED) error_drop(result.error.detail);
    return !result.is_error;
}

// Writes all of it; false when the stream is closed or fails.
static inline bool write_text(handle stream, text from) {
    while (from.length > 0) {
        size_t piece = from.length < WRITE_MOST ? from.length : WRITE_MOST;
        stream_result result;
        stream_write(stream, from.data, piece, &result);
        if (!succeeded(result)) return false;
        from.data += piece;
        from.length -= piece;
    }
    return true;
}

static inline text of_literal(const char *literal) {
    text made = {literal, 0};
    while (literal[made.length] != '\0') made.length++;
    return made;
}

// The number in decimal. It stands in `room`, which must be left alone as long as the text is used.
static inline text of_number(uint32_t number, char room[10]) {
    char *first = room + 10;
    do *--first = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    return (text){first, (size_t)(room + 10 - first)};
}
