"""Running modules with WasmEdge, a program of its own; how that behaves, as measured with 0.14.1 of Debian 13.

**It trusts a module's custom section `wasmedge`** to be machine code that it made, and a file in ELF too: so it is
never given an image's file, but what `rewriting` made of it.

- Standard streams: the guest reads and writes the process's own 0, 1 and 2, byte for byte. WasmEdge's own messages
  go to standard *output*, coloured on a terminal: why a guest trapped stands there, after all that the guest wrote.
  A `memory.grow` beyond `--memory-page-limit` would put a line among them; so memory is bounded by the module's
  declared maximum instead, which `rewriting` lowers. A module that starts with more than `--memory-page-limit` would
  run with less than it asked for.
- Exit codes: `proc_exit`'s, modulo 256; 134 for a trap; 1 for a module that cannot be loaded or linked (which we
  find out before) and for a reactor without a function; SIGSEGV when compiled code uses its stack up.
  Interpreted recursion has no bound but the host's memory (a recursive module took 20 GB in two minutes), so the
  process needs one (RLIMIT_DATA).
- argv[0] is the file's name with `.wasm` in the place of its suffix, without its folder.
- `--dir GUEST:HOST[:readonly]` holds what it says (writing, renaming, linking and times are refused), and neither
  `..` nor symbolic links lead out, with absolute ones refused; there can be no colon in a path. What cannot be opened
  is left out, with a message.
- `--env` carries the variables, so that all who may see the process may read them in /proc/PID/cmdline.
- `--time-limit` ends nothing that waits or is compiled: it is not used, the process is killed instead.
- A function's results are printed unsigned; one of too few or unreadable arguments aborts; `_initialize` is called
  before any function, and so twice if it is the function.
- `poll_oneoff` of a bad descriptor waits for ever, and of /dev/null as a stream fails with EPERM (63).
- Compiled recursion that LLVM can turn into a loop loops for ever where wasmtime would trap.
- The sockets cannot be switched off: without a network namespace of its own a guest has the host's network. Their
  functions exist in two generations; which one a module gets depends on the type it imports them with, and a type
  that fits neither is not refused but ends in undefined behaviour (`imports` refuses it).
- Proposals: tail calls, multiple memories, threads, extended constants, relaxed SIMD, exceptions and typed function
  references have to be switched on; of exceptions it has the old form too. There is no 64-bit memory.
- Its compiler does not take modules with exceptions or typed function references: those are interpreted.
- Starting takes 30 ms, most of it linking the LLVM library it is made with; a process has 53 MiB resident, of which
  9 MiB are its own.
"""
