//! The QEMU plugin that records a ktracer trace.
