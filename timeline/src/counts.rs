//! What can be counted in a trace without executing it: opaque instructions by mnemonic, from the segments' indexes, and
//! discontinuities, from their control streams.

use std::collections::BTreeMap;

use ktrace_format::Trace;
use ktrace_format::reader::SegmentEntry;
use ktrace_format::segment::cursor::Cursor;
use rayon::prelude::*;

/// Opaque instructions that started, by mnemonic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpaqueCounts {
    /// By mnemonic.
    pub counts: BTreeMap<String, u64>,
    /// Segments whose index is missing or can't be read, and why: what ran there is not in the counts. By number.
    pub uncounted: Vec<(usize, String)>,
}

/// Counts opaque instructions, on rayon's current thread pool.
pub fn opaque_counts(trace: &Trace) -> OpaqueCounts {
    let segments: Vec<Result<Vec<(u32, u64)>, String>> = trace
        .segments()
        .par_iter()
        .map(|segment| match trace.read_index(segment) {
            Ok(Some(packed)) => packed.index().map(|index| index.opaque).map_err(|error| error.to_string()),
            Ok(None) => Err("it has no index".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .collect();
    let mut counted = OpaqueCounts::default();
    for (number, segment) in segments.into_iter().enumerate() {
        match segment {
            Ok(counts) => {
                for (name, count) in counts {
                    let name = match trace.name(name) {
                        "" => format!("(name {name} is lost)"),
                        name => name.to_owned(),
                    };
                    let total = counted.counts.entry(name).or_default();
                    *total = total.saturating_add(count);
                }
            }
            Err(why) => counted.uncounted.push((number, why)),
        }
    }
    counted
}

/// Counts discontinuities, on rayon's current thread pool; `None` if a segment can't be read.
pub fn discontinuities(trace: &Trace) -> Option<u64> {
    trace.segments().par_iter().map(|segment| in_segment(trace, segment)).sum()
}

fn in_segment(trace: &Trace, segment: &SegmentEntry) -> Option<u64> {
    let (_, streams) = trace.read_segment(segment).ok()?;
    let mut cursor = Cursor::default();
    let mut count = 0;
    while cursor.next_control(&streams).ok()?.is_some() {
        let entry = cursor.control(&streams).ok()?;
        count += u64::from(entry.discontinuity.is_some()) + entry.further.causes(&streams).len() as u64;
    }
    Some(count)
}
