//! How the records of a memory image look: kinds, and the coding of a region. `SPEC.md` has the same in prose.

use super::{Region, RegionKind};

/// A region; the chunks of its content follow, unless it is an alias.
pub(super) const KIND_REGION: u32 = 1;
/// The next chunk of the current region, as one zstd frame.
pub(super) const KIND_CHUNK: u32 = 2;
/// A number (u64) of chunks of the current region that hold only zero bytes.
pub(super) const KIND_ZERO_CHUNKS: u32 = 3;
/// The last record: the number of regions (u64).
pub(super) const KIND_END: u32 = 4;

/// Bytes of content in a chunk as this version writes it; a region's last chunk may be shorter.
pub(super) const CHUNK_BYTES: u32 = 64 << 10;
/// The sizes of chunks that a reader takes.
pub(super) const CHUNK_BYTES_TAKEN: std::ops::RangeInclusive<u32> = 4 << 10..=1 << 20;

/// Bytes of a region record before the name.
const FIXED_BYTES: usize = 32;
const FLAG_STORED: u8 = 1;

/// A region record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RegionRecord {
    pub(super) region: Region,
    /// Whether chunks follow; otherwise every byte was seen in earlier regions.
    pub(super) stored: bool,
    pub(super) chunk_bytes: u32,
}

impl RegionRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let region = &self.region;
        let kind = match region.kind {
            RegionKind::Ram => 0,
            RegionKind::Rom => 1,
            RegionKind::RomDevice => 2,
        };
        let mut bytes = Vec::with_capacity(FIXED_BYTES + region.name.len());
        for number in [region.start, region.length, region.block_offset] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        bytes.extend_from_slice(&[kind, if self.stored { FLAG_STORED } else { 0 }, 0, 0]);
        bytes.extend_from_slice(region.name.as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (fixed, name) = bytes.split_at_checked(FIXED_BYTES).ok_or("a region record that is too short")?;
        let number = |at: usize| {
            fixed.get(at..at + 8).and_then(|eight| eight.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let kind = match fixed[28] {
            0 => RegionKind::Ram,
            1 => RegionKind::Rom,
            2 => RegionKind::RomDevice,
            _ => return Err("an unknown kind of region"),
        };
        let region = Region {
            start: number(0),
            length: number(8),
            kind,
            name: String::from_utf8(name.to_vec()).map_err(|_| "a region whose name is not UTF-8")?,
            block_offset: number(16),
        };
        if let Some(fault) = region.fault() {
            return Err(fault);
        }
        let chunk_bytes = u32::from_le_bytes([fixed[24], fixed[25], fixed[26], fixed[27]]);
        if !chunk_bytes.is_power_of_two() || !CHUNK_BYTES_TAKEN.contains(&chunk_bytes) {
            return Err("a region with chunks of a size that is not allowed");
        }
        if fixed[29] & !FLAG_STORED != 0 || fixed[30..] != [0, 0] {
            return Err("a region with flags that this version does not know");
        }
        Ok(RegionRecord { region, stored: fixed[29] & FLAG_STORED != 0, chunk_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_record_is_what_the_specification_says() {
        let record = RegionRecord {
            region: Region {
                start: 0x4000_0000,
                length: 0x123,
                kind: RegionKind::RomDevice,
                name: "flash".to_owned(),
                block_offset: 0x8877_6655_4433_2211,
            },
            stored: true,
            chunk_bytes: 65536,
        };
        let bytes = record.encode();
        assert_eq!(
            bytes,
            b"\0\0\0\x40\0\0\0\0\x23\x01\0\0\0\0\0\0\x11\x22\x33\x44\x55\x66\x77\x88\0\0\x01\0\x02\x01\0\0flash"
        );
        assert_eq!(RegionRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn nonsense_is_refused() {
        let good = RegionRecord {
            region: Region {
                start: 0,
                length: 1,
                kind: RegionKind::Ram,
                name: "r".to_owned(),
                block_offset: 0,
            },
            stored: true,
            chunk_bytes: 65536,
        }
        .encode();
        assert!(RegionRecord::decode(&good).is_ok());
        for (at, value) in [(8, 0), (7, 0), (24, 3), (26, 0), (28, 9), (29, 2), (30, 1), (32, 0xff)] {
            let mut bad = good.clone();
            bad[at] = value;
            if at == 7 {
                bad[..8].fill(0xff);
            }
            assert!(RegionRecord::decode(&bad).is_err(), "byte {at}");
        }
        assert!(RegionRecord::decode(&good[..31]).is_err());
        assert!(RegionRecord::decode(&good[..32]).is_err(), "no name");
    }
}
