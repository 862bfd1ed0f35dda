//! The small sample trace that comes with ktracer: U-Boot from reset, so that one can try things without QEMU.

use std::path::{Path, PathBuf};

const NAME: &str = "arm-u-boot";

/// Where the sample trace is: in `../share/ktracer` beside the running program, where an installation has it, or else in
/// the source tree that the program was built from. `None`: in neither.
pub fn directory() -> Option<PathBuf> {
    let program = std::env::current_exe().ok();
    let installed =
        program.as_deref().and_then(Path::parent).map(|here| here.join("../share/ktracer").join(NAME));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/samples").join(NAME);
    installed.into_iter().chain([source]).find_map(|directory| directory.canonicalize().ok())
}
