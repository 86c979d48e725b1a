// hello: the smallest useful guest. It prints one line and ends with exit code 0.
//
//     hello

#include <stdio.h>

int main(void) {
    puts("Hello from WebAssembly!");
    return 0;
}
