"""Small real implementations that stand in for the kernel, a runtime or a registry."""
