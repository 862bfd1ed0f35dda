//! What is damaged or missing in a trace, as far as can be told without executing it.

use std::io;
use std::path::Path;

use ktrace_format::index_file::{INDEX_FILE, IndexFile};
use ktrace_format::memory::{FILE_NAME, Image, ImageError};
use ktrace_format::{Trace, TraceError, header};
use rayon::prelude::*;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Condition {
    /// What should be there and is not, or is not what was written.
    pub faults: Vec<String>,
    /// What the recorder left out: the trace is as it was made.
    pub notes: Vec<String>,
}

impl Condition {
    /// Looks at everything: the checksum of every record of the trace and of its memory image.
    pub fn of(directory: &Path, trace: &Trace) -> Condition {
        let mut condition = Condition::default();
        condition.faults.extend(trace.faults().iter().map(ToString::to_string));
        condition.faults.extend(missing_positions(trace));
        condition.faults.extend(damaged_segments(directory, trace));
        match trace.totals() {
            None => condition.faults.push(format!(
                "the trace was not closed, or its end is damaged: it is torn at position {}, and what the guest did after \
                 that is missing",
                trace.instructions()
            )),
            Some(totals) if totals.instructions != trace.instructions() => condition.faults.push(format!(
                "the trace says that it has {} instructions; its segments have {}",
                totals.instructions,
                trace.instructions()
            )),
            Some(_) => {}
        }
        match Image::open(directory) {
            Ok(image) => {
                let faults = image.check().into_iter();
                condition.faults.extend(faults.map(|fault| format!("{FILE_NAME}: {fault}")));
            }
            Err(ImageError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound
                    && trace.header().path == header::Path::Original =>
            {
                condition.notes.push(
                    "an imported recording: registers are known where blocks begin, memory is not known, and what ran between \
                     two blocks is not either"
                        .to_owned(),
                );
            }
            Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                condition.notes.push(format!(
                    "the initial memory was not captured (there is no {FILE_NAME}): memory is known from its first \
                     access on"
                ));
            }
            Err(error) => condition.faults.push(format!("the initial memory can't be read: {error}")),
        }
        condition
    }
}

fn missing_positions(trace: &Trace) -> Vec<String> {
    let mut faults = Vec::new();
    let mut position = 0;
    for segment in trace.segments() {
        if segment.first > position {
            faults.push(format!("no segment has the positions {position} to {}", segment.first - 1));
        } else if segment.first < position {
            faults.push(format!("the segment at position {} overlaps the one before it", segment.first));
        }
        position = segment.end();
    }
    faults
}

fn damaged_segments(directory: &Path, trace: &Trace) -> Vec<String> {
    let replaced = IndexFile::open(directory, trace);
    let replaced = replaced.as_ref();
    let faults = trace.segments().par_iter().enumerate().map(|(number, segment)| {
        let damaged = trace.read_head(segment).err();
        // Opening the trace reported a record whose payload it had to read: once is enough.
        let damaged = damaged.filter(|error| match error {
            TraceError::Record { source, .. } => !trace.faults().contains(source),
            _ => true,
        });
        let segment_fault =
            damaged.map(|error| format!("the segment at position {}: {error}", segment.first));
        let index = match trace.read_index(segment) {
            Ok(Some(packed)) => packed.index().and(packed.contents()).err().map(|error| error.to_string()),
            Ok(None) => Some("it is missing".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let index_fault = index.map(|why| {
            let replaced = replaced.is_some_and(|file| file.replacement(number).is_some());
            let instead = if replaced {
                format!("{INDEX_FILE} has another in its place")
            } else {
                format!(
                    "searches execute the segment instead; `ktracer index {}` mends that",
                    directory.display()
                )
            };
            format!("the index of the segment at position {}: {why} ({instead})", segment.first)
        });
        segment_fault.into_iter().chain(index_fault).collect::<Vec<_>>()
    });
    faults.flatten_iter().collect()
}
