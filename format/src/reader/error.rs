//! Why a trace can't be read.

use std::io;
use std::path::PathBuf;

use crate::header::FORMAT_VERSION;
use crate::record::RecordError;
use crate::segment::SegmentError;

/// Why a trace can't be opened, or a part of it not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The directory or its file can't be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no trace.
    #[error("{path} is not a ktracer trace: {why}", path = .path.display())]
    NotATrace {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A newer ktracer made it.
    #[error("{path} has trace format {found}, this ktracer reads up to {FORMAT_VERSION}: a newer ktracer is needed", path = .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// An older ktracer made it, and this one computes other digests.
    #[error("{path} has trace format {found}, this ktracer reads {FORMAT_VERSION}: the ktracer that made it reads it; or record again", path = .path.display())]
    Older {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A record is damaged.
    #[error("{path}: {source}", path = .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        source: RecordError,
    },
    /// Nothing here can replay it.
    #[error("{path}: {what} is not supported by this ktracer", path = .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it has.
        what: &'static str,
    },
    /// A record's checksum is right but its contents are not.
    #[error("{path}: the record at offset {offset}: {source}", path = .path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// Offset of the record.
        offset: u64,
        /// What is wrong.
        source: SegmentError,
    },
}
