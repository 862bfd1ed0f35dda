//! Serves a ktracer trace to gdb.

fn main() {}
