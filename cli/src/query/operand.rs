//! Addresses and ranges as people write them: numbers, and symbols of an ELF file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ktrace_timeline::destination::parse_number;
use ktrace_timeline::search::{AddressSpace, MemoryRange};
use object::{Object, ObjectSymbol, SymbolKind};

/// How much an address alone stands for: a word.
const WORD: u64 = 4;

/// The symbols of an ELF file, by name: address and size.
#[derive(Debug, Default)]
pub struct Symbols(BTreeMap<String, (u64, u64)>);

impl Symbols {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Symbols> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let file =
            object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
        let mut symbols = BTreeMap::new();
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            if name.is_empty() || !symbol.is_definition() {
                continue;
            }
            // Bit 0 of a function chooses T32, MIPS16e or microMIPS, and is no part of the address.
            let address =
                if symbol.kind() == SymbolKind::Text { symbol.address() & !1 } else { symbol.address() };
            symbols.insert(name.to_owned(), (address, symbol.size()));
        }
        Ok(Symbols(symbols))
    }

    fn find(&self, name: &str) -> Result<(u64, u64)> {
        let hint = if self.0.is_empty() { "; give the program with --elf" } else { "" };
        self.0.get(name).copied().with_context(|| format!("`{name}` is no address and no symbol{hint}"))
    }

    /// The virtual address that a text names.
    pub fn address(&self, text: &str) -> Result<u32> {
        let address = match parse_number(text) {
            Some(address) => address,
            None => self.find(text)?.0,
        };
        u32::try_from(address).with_context(|| format!("{address:#x} is beyond the guest's addresses"))
    }

    /// The range that a text names: `ADDR` (a word), `ADDR+LENGTH`, `ADDR..END`, or a symbol; `phys:` before it makes it
    /// physical.
    pub fn range(&self, text: &str) -> Result<MemoryRange> {
        let (space, place) = match text.strip_prefix("phys:") {
            Some(place) => (AddressSpace::Physical, place),
            None => (AddressSpace::Virtual, text),
        };
        let start =
            |text: &str| parse_number(text).map_or_else(|| self.find(text).map(|(address, _)| address), Ok);
        let (first, length) = if let Some((first, end)) = place.split_once("..") {
            let (first, end) = (start(first)?, start(end)?);
            let Some(length) = end.checked_sub(first) else { bail!("`{text}` ends before it begins") };
            (first, length)
        } else if let Some((first, length)) = place.split_once('+') {
            let length = parse_number(length).with_context(|| format!("`{length}` is no length"))?;
            (start(first)?, length)
        } else if let Some(first) = parse_number(place) {
            (first, WORD)
        } else {
            let (first, size) = self.find(place)?;
            (first, if size == 0 { WORD } else { size })
        };
        MemoryRange::new(space, first, length).with_context(|| {
            format!("`{text}` is empty, longer than 4 GiB, or leads beyond the last address")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols() -> Symbols {
        Symbols(
            [("main", (0x8000, 0x40)), ("label", (0x9000, 0))]
                .map(|(name, place)| (name.into(), place))
                .into(),
        )
    }

    #[test]
    fn every_form_is_a_range() {
        for (text, space, first, last) in [
            ("0x1000", AddressSpace::Virtual, 0x1000, 0x1003),
            ("0x1000+0x10", AddressSpace::Virtual, 0x1000, 0x100f),
            ("4096..0x2000", AddressSpace::Virtual, 0x1000, 0x1fff),
            ("phys:0x4000_0000+1", AddressSpace::Physical, 0x4000_0000, 0x4000_0000),
            ("main", AddressSpace::Virtual, 0x8000, 0x803f),
            ("label", AddressSpace::Virtual, 0x9000, 0x9003),
            ("main+4", AddressSpace::Virtual, 0x8000, 0x8003),
            ("main..label", AddressSpace::Virtual, 0x8000, 0x8fff),
        ] {
            let range = symbols().range(text).unwrap();
            assert_eq!((range.space(), range.first(), range.last()), (space, first, last), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in
            ["", "x", "0x1000+", "0x1000+0", "2..1", "0x1000..", "0x1_0000_0000", "main+x", "phys:", "-1"]
        {
            assert!(symbols().range(text).is_err(), "{text}");
        }
        assert_eq!(symbols().address("main").unwrap(), 0x8000);
        assert!(symbols().address("0x100000000").is_err());
        let error = Symbols::default().address("main").unwrap_err().to_string();
        assert!(error.contains("--elf"), "{error}");
    }
}
