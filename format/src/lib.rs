//! The ktracer trace on disk: writer, memory-mapped reader, recovery.
