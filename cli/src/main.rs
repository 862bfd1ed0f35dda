//! Records, checks and shows ktracer traces.

fn main() {}
