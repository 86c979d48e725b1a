"""`python -m wasm_sandboxer`."""

from wasm_sandboxer.cli import main

main()
