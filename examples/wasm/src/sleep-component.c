// sleep-component: a component that waits where nothing but its host can wake it: in `block` of wasi:io/poll.
//
//     sleep-component [SECONDS]    default: for ever; fractions are fine
//
// Prints `slept` at the end. Its frame is sleep-component.wat.

#include "component/component.h"

static const uint64_t second_in_ns = 1000000000;

IMPORT("wasi:clocks/monotonic-clock@0.2.0", "subscribe-duration")
handle subscribe_duration(uint64_t ns);

static void wait_for(uint64_t ns) {
    handle pollable = subscribe_duration(ns);
    pollable_block(pollable);
    pollable_drop(pollable);
}

// "1.5" is 1500000000. What follows a character that is neither a digit nor the first dot is not read.
static uint64_t in_ns(text seconds) {
    uint64_t ns = 0;
    uint64_t weight = 0;  // of the next digit behind the dot; 0 before it
    for (size_t i = 0; i < seconds.length; i++) {
        char letter = seconds.data[i];
        if (letter == '.' && weight == 0) {
            weight = second_in_ns / 10;
        } else if (letter < '0' || letter > '9') {
            break;
        } else if (weight == 0) {
            ns = ns * 10 + (uint64_t)(letter - '0') * second_in_ns;
        } else {
            ns += (uint64_t)(letter - '0') * weight;
            if ((weight /= 10) == 0) break;
        }
    }
    return ns;
}

RUN bool run(void) {
    texts arguments;
    get_arguments(&arguments);
    while (arguments.count < 2) wait_for(3600 * second_in_ns);
    wait_for(in_ns(arguments.items[1]));
    handle out = get_stdout();
    bool well = write_text(out, of_literal("slept\n"));
    stream_drop(out);
    return !well;
}
