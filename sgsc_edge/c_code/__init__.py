"""C code: a device graph as plain C99, its kernels chosen and its memory planned when it is written."""
