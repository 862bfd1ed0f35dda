//! The writer against the reader: what went in comes out, from whole files, cut ones and damaged ones.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use super::layout::CHUNK_BYTES;
use super::*;

const CHUNK: usize = CHUNK_BYTES as usize;

/// A directory that goes when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ktrace-memory-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE_NAME)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn region(start: u64, length: usize, name: &str, block_offset: u64) -> Region {
    Region { start, length: length as u64, kind: RegionKind::Ram, name: name.to_owned(), block_offset }
}

/// Bytes that do not compress and differ everywhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Three chunks and a bit: noise, zero, noise, and a short chunk of ones.
fn sample_content() -> Vec<u8> {
    let mut content = noise(3 * CHUNK);
    content[CHUNK..2 * CHUNK].fill(0);
    content.extend([1; 100]);
    content
}

/// RAM at 0x4000_0000, a part of it again at 0x1000, and a ROM right behind that part.
fn write_sample(directory: &Directory) -> Vec<u8> {
    let content = sample_content();
    let mut writer = ImageWriter::create(&directory.0).unwrap();
    writer.add_region(&region(0x4000_0000, content.len(), "ram", 0), &content[..]).unwrap();
    let rom = Region { kind: RegionKind::Rom, ..region(0x2000, 4, "rom", 0) };
    writer.add_region(&rom, &b"boot"[..]).unwrap();
    writer.add_alias(&region(0x1000, 0x1000, "ram", 0x10)).unwrap();
    writer.finish().unwrap();
    content
}

#[test]
fn what_is_written_is_read() {
    let directory = Directory::new("whole");
    let content = write_sample(&directory);
    let image = Image::open(&directory.0).unwrap();
    assert_eq!(image.defect(), None);
    assert_eq!(image.check(), Vec::<String>::new());
    assert_eq!(image.regions().len(), 3);
    assert_eq!(image.region(0x2003).unwrap().kind, RegionKind::Rom);
    assert_eq!(image.region(0x2004), None);

    let mut all = vec![0xaa; content.len() + 64];
    assert_eq!(image.read(0x4000_0000 - 32, &mut all), vec![32..32 + content.len()]);
    assert_eq!(all[32..32 + content.len()], content[..]);
    assert!(
        all[..32].iter().chain(&all[32 + content.len()..]).all(|&byte| byte == 0xaa),
        "unknown is not touched"
    );
}

#[test]
fn an_alias_shows_the_same_bytes_and_has_one_canonical_address() {
    let directory = Directory::new("alias");
    let content = write_sample(&directory);
    let image = Image::open(&directory.0).unwrap();
    assert_eq!(image.canonical(0x1000), 0x4000_0010);
    assert_eq!(image.canonical(0x1fff), 0x4000_100f);
    assert_eq!(image.canonical(0x2000), 0x2000);
    assert_eq!(image.canonical(0x4000_0010), 0x4000_0010);
    assert_eq!(image.canonical(0xfff), 0xfff);
    assert_eq!(image.canonical(u64::MAX), u64::MAX);

    let mut bytes = [0; 8];
    assert_eq!(image.read(0x1ffc, &mut bytes), vec![0..8], "across the alias into the ROM");
    assert_eq!(bytes[..4], content[0x100c..0x1010]);
    assert_eq!(bytes[4..], *b"boot");
}

#[test]
fn addresses_at_the_end_of_the_address_space_are_unknown() {
    let directory = Directory::new("end");
    write_sample(&directory);
    let image = Image::open(&directory.0).unwrap();
    let mut bytes = [0x55; 16];
    assert_eq!(image.read(u64::MAX - 3, &mut bytes), vec![]);
    assert_eq!(bytes, [0x55; 16]);
    assert_eq!(image.read(0, &mut []), vec![]);
}

#[test]
fn a_file_cut_anywhere_knows_a_true_prefix_of_each_region() {
    let directory = Directory::new("cut");
    let content = write_sample(&directory);
    let whole = fs::read(directory.file()).unwrap();
    let mut seen_prefixes = std::collections::BTreeSet::new();
    for length in (0..whole.len() - 400).step_by(997).chain(whole.len() - 400..whole.len()) {
        fs::write(directory.file(), &whole[..length]).unwrap();
        let image = Image::open(&directory.0).unwrap();
        assert!(image.defect().is_some(), "cut at {length}");
        let mut all = vec![0xaa; content.len()];
        let known = image.read(0x4000_0000, &mut all);
        let prefix = match &known[..] {
            [] => 0,
            [one] if one.start == 0 => one.end,
            other => panic!("cut at {length}: {other:?}"),
        };
        assert_eq!(all[..prefix], content[..prefix], "cut at {length}");
        seen_prefixes.insert(prefix);
    }
    let chunks = [0, 2 * CHUNK, 3 * CHUNK, content.len()];
    assert_eq!(seen_prefixes.into_iter().collect::<Vec<_>>(), chunks);
}

#[test]
fn a_damaged_chunk_is_unknown_and_the_others_are_read() {
    let directory = Directory::new("damage");
    let content = write_sample(&directory);
    let mut file = fs::read(directory.file()).unwrap();
    let first_chunk = 24 + 32 + 3;
    file[first_chunk + 24 + 1000] ^= 1;
    fs::write(directory.file(), &file).unwrap();
    let image = Image::open(&directory.0).unwrap();
    let mut all = vec![0; content.len()];
    assert_eq!(image.read(0x4000_0000, &mut all), vec![CHUNK..content.len()]);
    assert_eq!(all[CHUNK..], content[CHUNK..]);
    assert_eq!(image.check().len(), 1);
    assert_eq!(image.read(0x4000_0000, &mut all[..16]), vec![], "also from the cache");
}

#[test]
fn flipped_bits_never_invent_memory() {
    let directory = Directory::new("flip");
    let mut writer = ImageWriter::create(&directory.0).unwrap();
    let mut content = vec![0; CHUNK + 50];
    content[CHUNK..].fill(7);
    writer.add_region(&region(0x8000, content.len(), "ram", 0), &content[..]).unwrap();
    writer.finish().unwrap();
    let whole = fs::read(directory.file()).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut file = whole.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        // A new file each time: the one before may still be mapped.
        fs::remove_file(directory.file()).unwrap();
        fs::write(directory.file(), &file).unwrap();
        let Ok(image) = Image::open(&directory.0) else { continue };
        assert!(!image.check().is_empty(), "bit {bit}");
        let mut all = vec![0xaa; content.len()];
        for range in image.read(0x8000, &mut all) {
            assert_eq!(all[range.clone()], content[range], "bit {bit}");
        }
    }
}

#[test]
fn content_that_ends_early_is_an_error() {
    let directory = Directory::new("early");
    let mut writer = ImageWriter::create(&directory.0).unwrap();
    let error = writer.add_region(&region(0, 10, "ram", 0), io::repeat(1).take(9)).unwrap_err();
    assert!(matches!(error, ImageError::Content { .. }), "{error}");
}

#[test]
fn regions_that_cannot_be_are_refused() {
    let directory = Directory::new("bad");
    let mut writer = ImageWriter::create(&directory.0).unwrap();
    writer.add_region(&region(0x100, 0x100, "ram", 0), io::repeat(1)).unwrap();
    for bad in [
        region(0x1ff, 2, "ram", 0),
        region(0x300, 0, "ram", 0),
        region(u64::MAX, 1, "ram", 0),
        region(0x300, 1, "ram", u64::MAX),
        region(0x300, 1, "", 0),
    ] {
        assert!(writer.add_region(&bad, io::repeat(1)).is_err(), "{bad:?}");
    }
    assert!(writer.add_alias(&region(0x300, 0x101, "ram", 0)).is_err());
    assert!(writer.add_alias(&region(0x300, 1, "other", 0)).is_err());
    assert!(writer.add_alias(&region(0x300, 0x100, "ram", 0)).is_ok());
}

#[test]
fn records_that_contradict_each_other_are_refused() {
    let directory = Directory::new("malformed");
    let ram =
        layout::RegionRecord { region: region(0, 100, "ram", 0), stored: true, chunk_bytes: CHUNK_BYTES };
    let (ram, huge) = (ram.encode(), u64::MAX.to_le_bytes());
    let cases: [&[(u32, &[u8])]; 7] = [
        &[(layout::KIND_CHUNK, b"")],
        &[(layout::KIND_REGION, &ram), (layout::KIND_ZERO_CHUNKS, &huge)],
        &[(layout::KIND_REGION, &ram), (layout::KIND_END, &1u64.to_le_bytes())],
        &[(layout::KIND_REGION, &ram), (layout::KIND_CHUNK, b""), (layout::KIND_REGION, &ram)],
        &[(layout::KIND_END, &huge)],
        &[(layout::KIND_END, &0u64.to_le_bytes()), (layout::KIND_REGION, &ram)],
        &[(layout::KIND_END, b"")],
    ];
    for records in cases {
        let mut writer = crate::record::RecordWriter::new(Vec::new());
        for (kind, payload) in records {
            writer.append(*kind, &[payload]).unwrap();
        }
        let _ = fs::remove_file(directory.file());
        fs::write(directory.file(), writer.into_inner()).unwrap();
        assert!(matches!(Image::open(&directory.0), Err(ImageError::Malformed { .. })), "{records:?}");
    }
}

#[test]
fn much_zero_memory_makes_a_small_file() {
    let directory = Directory::new("sparse");
    let mut writer = ImageWriter::create(&directory.0).unwrap();
    let length = 256 << 20;
    writer.add_region(&region(0, length, "ram", 0), io::repeat(0)).unwrap();
    writer.finish().unwrap();
    assert!(fs::metadata(directory.file()).unwrap().len() < 200);
    let image = Image::open(&directory.0).unwrap();
    let mut bytes = [1; 3];
    assert_eq!(image.read(length as u64 - 2, &mut bytes), vec![0..2]);
    assert_eq!(bytes, [0, 0, 1]);
}
