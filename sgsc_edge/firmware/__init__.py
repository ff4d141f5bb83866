"""C code for devices: what a model needs of kernels, memory and constants, written as C99."""
