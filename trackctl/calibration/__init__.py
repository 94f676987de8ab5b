"""Which inputs the int8 ranges come from. Torch-free."""
