"""What the compiler makes of every kernel: compiles all launches without a GPU and reads the binaries.

`python -m minitrans_kernels.inspection` prints the table and the faults.
"""
