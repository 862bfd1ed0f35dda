//! Captures the guest's memory before the first instruction from inside a patched QEMU.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::path::Path;

use ktrace_format::memory::{FILE_NAME, ImageError, ImageWriter, Region, RegionKind};

use crate::api::{Api, MemoryRange, memory_kind};

/// A range of memory, and where QEMU has its bytes.
struct Range {
    region: Region,
    space: u32,
    data: *const u8,
}

/// All ranges of memory that the vCPU's address spaces show.
fn ranges(api: &Api) -> Vec<Range> {
    unsafe extern "C" fn note(range: *const MemoryRange, list: *mut c_void) {
        // SAFETY: QEMU passes a valid range, and the list that it was given below.
        let (range, list) = unsafe { (&*range, &mut *list.cast::<Vec<Range>>()) };
        let kind = match range.kind {
            memory_kind::RAM => RegionKind::Ram,
            memory_kind::ROM => RegionKind::Rom,
            memory_kind::ROMD => RegionKind::RomDevice,
            _ => return,
        };
        // SAFETY: QEMU's names end with NUL and live for ever.
        let name = unsafe { CStr::from_ptr(range.name) }.to_string_lossy().into_owned();
        let region = Region { start: range.start, length: range.len, kind, name, block_offset: range.offset };
        list.push(Range { region, space: range.address_space, data: range.data.cast() });
    }
    let mut list: Vec<Range> = Vec::new();
    // SAFETY: on the vCPU's thread, as the function asks; the list outlives the call.
    unsafe { (api.for_each_memory_range)(note, std::ptr::from_mut(&mut list).cast()) };
    list
}

/// Those that all address spaces show alike: only of these can an image say what the processor finds there.
fn agreed(list: Vec<Range>) -> Vec<Range> {
    let spaces = list.iter().map(|range| range.space).max().map_or(0, |last| last + 1);
    let mut seen: HashMap<(u64, u64, String, u64), u32> = HashMap::new();
    for range in &list {
        let Region { start, length, name, block_offset, .. } = &range.region;
        *seen.entry((*start, *length, name.clone(), *block_offset)).or_default() += 1;
    }
    list.into_iter()
        .filter(|range| {
            let Region { start, length, name, block_offset, .. } = &range.region;
            range.space == 0 && seen.get(&(*start, *length, name.clone(), *block_offset)) == Some(&spaces)
        })
        .collect()
}

/// Writes all memory into `memory.kt` in `directory`. After an error nothing is left. On the vCPU's thread, in a callback.
pub fn capture(api: &Api, directory: &Path) -> Result<u64, ImageError> {
    let result = write(api, directory);
    if result.is_err() {
        // That it is not there is what is wanted, and nothing better can be done if it stays.
        let _ = std::fs::remove_file(directory.join(FILE_NAME));
    }
    result
}

fn write(api: &Api, directory: &Path) -> Result<u64, ImageError> {
    let mut image = ImageWriter::create(directory)?;
    let mut bytes = 0;
    for Range { region, data, .. } in agreed(ranges(api)) {
        if image.is_alias(&region) {
            image.add_alias(&region)?;
        } else {
            // SAFETY: QEMU has `length` bytes there as long as the machine has the memory, and this is the vCPU's thread
            // in a callback, so that no vCPU changes it; a device that does is told of afterwards, and the bytes are read
            // again then.
            let content = unsafe { std::slice::from_raw_parts(data, region.length as usize) };
            image.add_region(&region, content)?;
            bytes += region.length;
        }
    }
    image.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_all_address_spaces_show_is_kept() {
        let range = |space, start, name: &str| Range {
            region: Region {
                start,
                length: 0x1000,
                kind: RegionKind::Ram,
                name: name.to_owned(),
                block_offset: 0,
            },
            space,
            data: std::ptr::null(),
        };
        let list = vec![
            range(0, 0, "flash"),
            range(0, 0x8000, "ram"),
            range(1, 0, "secure"),
            range(1, 0x8000, "ram"),
        ];
        let kept: Vec<_> = agreed(list).into_iter().map(|range| range.region.name).collect();
        assert_eq!(kept, ["ram"]);
        assert_eq!(agreed(vec![range(0, 0, "flash")]).len(), 1);
    }
}
