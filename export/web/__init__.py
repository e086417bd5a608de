"""Decoding in the browser: a site of static files, and its kernels in WebAssembly."""
