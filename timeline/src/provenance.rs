//! Where the value of a byte of memory at a position comes from: what [`Replay::read_memory`](crate::Replay) relies on.

use ktrace_format::shadow::PAGE_BYTES;

use crate::recording::Recording;
use crate::replay::ReplayError;

/// What proves a byte of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// A load or store between `from`, where the segment at hand begins, and the present position.
    Accessed {
        /// Position of the segment's first instruction.
        from: u64,
    },
    /// The segment that ends at `by` left it so, the last one to change its line: a store, or a load that found it changed.
    LeftBy {
        /// Position after that segment's last instruction.
        by: u64,
    },
    /// The initial memory; nothing that the recording saw has changed it.
    Initial,
    /// It is code of the block that executes here.
    Executing,
    /// Nothing.
    Unknown,
}

impl Recording {
    /// What proves the byte at a virtual address, here.
    pub fn provenance(&mut self, address: u32) -> Result<Provenance, ReplayError> {
        if !self.show()? {
            return Ok(Provenance::Unknown);
        }
        let known = self.physical_page(address).and_then(|page| self.physical_provenance(page, address));
        if let Some(known) = known {
            return Ok(known);
        }
        let mut code = [None];
        self.read_code(address, &mut code);
        Ok(if code == [None] { Provenance::Unknown } else { Provenance::Executing })
    }

    fn physical_provenance(&self, page: u64, address: u32) -> Option<Provenance> {
        let offset = address as usize % PAGE_BYTES;
        if self.window.byte(page, offset).is_some() {
            return Some(Provenance::Accessed { from: self.window.first() });
        }
        let (line, bit) = (offset / 64, offset % 64);
        let (writers, blind) = self.history().writers(page, self.window.segment() as u32);
        let trace = self.program().trace();
        for writer in writers {
            let segment = trace.segments().get(writer as usize)?;
            let index = trace.read_index(segment).ok()??.index().ok()?;
            let lines = index.page(page)?;
            if lines.written >> line & 1 != 0 {
                let rank = (lines.written & ((1 << line) - 1)).count_ones() as usize;
                let known = lines.known.get(rank)? >> bit & 1 != 0;
                return known.then_some(Provenance::LeftBy { by: segment.end() });
            }
        }
        let image = self.program().image().filter(|_| !blind)?;
        let known = image.read(page * PAGE_BYTES as u64 + offset as u64, &mut [0]);
        (!known.is_empty()).then_some(Provenance::Initial)
    }
}
