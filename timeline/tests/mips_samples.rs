//! The sample traces of a MIPS guest, in both byte orders: they stay readable, and are proved.

use std::path::Path;
use std::sync::Arc;

use ktrace_format::Position;
use ktrace_timeline::{Program, Recording, Replay, verify};

#[test]
fn the_samples_are_proved_and_end_where_the_board_is_reset() {
    for (name, big_endian) in [("mips-guest", true), ("mipsel-guest", false)] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/samples").join(name);
        let program = Arc::new(Program::open(&directory).expect(name));
        let report = verify::verify(&program, &|_| (), &|| false);
        assert!(report.divergences.is_empty(), "{name}: {:?}", report.divergences);
        assert!(report.proved == report.instructions && report.proved > 300_000, "{name}: {report:?}");

        let mut recording = Recording::new(program);
        assert_eq!(recording.registers().unwrap()[37], Some(0xbfc0_0000), "{name}");
        let end = recording.end().0;
        recording.seek(Position(end)).unwrap();
        let registers = recording.registers().unwrap();
        // The stack is in kseg0, and the first exception's vector, `mfc0 $26, $8`, at its beginning.
        assert!(registers[29].is_some_and(|stack| stack >> 16 == 0x807f), "{name}: {registers:x?}");
        let mut vector = [None; 4];
        recording.read_memory(0xa000_0000, &mut vector).unwrap();
        let mut expected = 0x401a_4000_u32.to_be_bytes().map(Some);
        if !big_endian {
            expected.reverse();
        }
        assert_eq!(vector, expected, "{name}");
    }
}
