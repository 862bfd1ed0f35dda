//! What the tracer knows of QEMU's MIPS.
//!
//! The numbers come from QEMU's target/mips/cpu.h (10.0), which a plugin can't include.

use ktrace_machine::mips::{Mode, Slot};
use ktrace_machine::{ByteOrder, InstructionSet, Registers};

use crate::api::discontinuity;
use crate::event::From;

/// `MIPS_HFLAG_F64`.
const FPU_64: u64 = 0x40;
/// `MIPS_HFLAG_M16`.
const COMPRESSED: u64 = 0x400;
/// `MIPS_HFLAG_BMASK_BASE` without the forbidden slots of release 6.
const SLOT: u64 = 0x3800;
/// `MIPS_HFLAG_BL`, in `SLOT`.
const LIKELY_SLOT: u64 = 0x1800;

/// Causes of discontinuities in a trace, besides Cause.ExcCode.
pub const RESET: u8 = 32;
const HOST_CALL: u8 = 33;

/// Numbers of registers.
const BAD_ADDRESS: usize = 35;
const CAUSE: usize = 36;
/// Exceptions that a fetch can raise: TLBL, AdEL, IBE.
const OF_FETCHES: [u8; 3] = [2, 4, 6];

/// Processors of release 2 or later whose compressed code is MIPS16e, if they have any.
const RELEASE_2: [&str; 12] = [
    "24Kc",
    "24KEc",
    "24Kf",
    "34Kf",
    "74Kf",
    "4KEc",
    "4KEm",
    "P5600",
    "mips32r5-generic",
    "M4K",
    "24KEf",
    "1004Kc",
];
/// The same with microMIPS.
const MICROMIPS: [&str; 2] = ["M14K", "M14Kc"];
/// Those that execute something else than MIPS32 up to release 5.
const FOREIGN: [&str; 4] = ["mips32r6-generic", "I7200", "XBurstR1", "XBurstR2"];
/// The machine's processor where the command line names none.
const DEFAULTS: [(&str, &str); 1] = [("malta", "24Kf")];

/// What executes, from QEMU's target and what the command line says of the processor: its name, or `default of` a machine.
/// An error names a processor that is not supported. Of one that is not known nothing is presumed.
pub fn instruction_set(target: &str, processor: &str) -> Result<InstructionSet, String> {
    let order = if target == "mips" { ByteOrder::Big } else { ByteOrder::Little };
    let model = |name: &str| name.split(',').next().unwrap_or_default().to_owned();
    let name = match processor.strip_prefix("default of ") {
        Some(machine) => {
            let known = DEFAULTS.iter().find(|(name, _)| *name == model(machine));
            known.map_or(String::new(), |(_, processor)| (*processor).to_owned())
        }
        None => model(processor),
    };
    if FOREIGN.contains(&name.as_str()) {
        return Err(format!("it records MIPS32 up to release 5, which the processor {name} is not"));
    }
    let mut mode = Mode::of_processor(order == ByteOrder::Big);
    if MICROMIPS.contains(&name.as_str()) {
        mode = mode.with_release_2().with_micromips();
    } else if RELEASE_2.contains(&name.as_str()) {
        mode = mode.with_release_2();
    }
    Ok(InstructionSet::Mips(mode))
}

/// Whether QEMU shows plugins the values of a big-endian guest's accesses. Before 10.0.13 (and after 10.0.2) it showed them with
/// their bytes swapped where generated code has to swap them itself: on a little-endian host without loads and stores that
/// do (`tcg_gen_qemu_ld_i32_int` in tcg/tcg-op-ldst.c). `version` is what QEMU says of itself.
pub fn shows_big_endian_values(version: &str) -> bool {
    shows_values(version, host_swaps())
}

fn host_swaps() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("movbe");
    #[cfg(not(target_arch = "x86_64"))]
    return cfg!(target_endian = "big");
}

fn shows_values(version: &str, host_swaps: bool) -> bool {
    const MENDED: [u32; 3] = [10, 0, 13];
    let number = version.split(|c: char| !c.is_ascii_digit() && c != '.').find(|part| part.contains('.'));
    let parts: Vec<u32> =
        number.unwrap_or_default().split('.').filter_map(|part| part.parse().ok()).collect();
    host_swaps || parts[..] >= MENDED[..]
}

/// The mode that a block is translated for, by its `TranslationBlock.flags`.
pub fn mode(processor: Mode, flags: u64) -> Mode {
    let slot = match flags & SLOT {
        0 => Slot::None,
        LIKELY_SLOT => Slot::Likely,
        _ => Slot::Branch,
    };
    Mode::in_slot(processor, flags & FPU_64 != 0, flags & COMPRESSED != 0, slot)
}

/// The cause of a discontinuity of one of QEMU's types, which was taken at `from`, and what it says of the block before;
/// `registers` are those after it.
///
/// Where QEMU can't fetch an instruction no block begins. At an address that is no multiple of four it fetches one, and makes
/// a block of it that raises the exception.
pub fn discontinuity(kind: u32, from: u64, registers: &Registers) -> (u8, From) {
    let register = |number| registers.get(number).copied().unwrap_or_default();
    let code = (register(CAUSE) >> 2 & 31) as u8;
    match kind {
        discontinuity::HOST_CALL => (HOST_CALL, From::Between),
        discontinuity::INTERRUPT => (code, From::Between),
        _ if OF_FETCHES.contains(&code) && register(BAD_ADDRESS) == from as u32 && from.is_multiple_of(4) => {
            (code, From::Between)
        }
        _ => (code, From::At),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_known_by_its_name_or_its_machine() {
        let bits = |target, processor| match instruction_set(target, processor) {
            Ok(InstructionSet::Mips(mode)) => Some(mode.bits()),
            _ => None,
        };
        assert_eq!(bits("mipsel", "24Kf"), Some(0x80));
        assert_eq!(bits("mips", "default of malta"), Some(0x81));
        assert_eq!(bits("mips", "default of malta,accel=tcg"), Some(0x81));
        assert_eq!(bits("mipsel", "4Kc"), Some(0));
        assert_eq!(bits("mipsel", "M14Kc,something=on"), Some(0x88));
        assert_eq!(bits("mipsel", ""), Some(0));
        assert_eq!(bits("mipsel", "mips32r6-generic"), None);
    }

    #[test]
    fn values_are_right_where_the_host_swaps_or_qemu_is_new_enough() {
        let old = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)";
        assert!(shows_values(old, true) && !shows_values(old, false));
        assert!(
            shows_values("QEMU emulator version 10.0.13 (Debian)", false) && shows_values("10.1.0", false)
        );
        assert!(!shows_values("", false) && !shows_values("9.2.0", false));
    }

    #[test]
    fn flags_say_in_which_slot_a_block_begins() {
        let processor = Mode::of_processor(false);
        let bits = |flags| mode(processor, flags).bits();
        assert_eq!([bits(0x30), bits(0x40), bits(0x400)], [0, 2, 4]);
        assert_eq!([bits(0x800), bits(0x1000), bits(0x1800), bits(0x2000)], [16, 16, 32, 16]);
        assert_eq!(bits(0x4f800 & !0x3800 | 0x800), 16);
    }

    #[test]
    fn a_fault_of_a_fetch_is_told_from_that_of_a_load() {
        let mut values = Registers::zero(72);
        for (number, value) in values.iter_mut().enumerate() {
            match number {
                BAD_ADDRESS => *value = 0x1000,
                CAUSE => *value = 2 << 2,
                _ => {}
            }
        }
        assert_eq!(discontinuity(2, 0x1000, &values), (2, From::Between));
        assert_eq!(discontinuity(2, 0xffff_ffff_0000_1000, &values), (2, From::Between));
        assert_eq!(discontinuity(2, 0x8000_0000, &values), (2, From::At));
        values[BAD_ADDRESS] = 0x1002;
        assert_eq!(discontinuity(2, 0x1002, &values), (2, From::At));
        assert_eq!(discontinuity(1, 0x1000, &values), (2, From::Between));
        assert_eq!(discontinuity(4, 0x1000, &values), (33, From::Between));
    }
}
