//! Replay of ktracer traces: seek, step, search, memory at a time.
