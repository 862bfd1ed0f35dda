use super::*;
use proptest::prelude::*;

const INTERESTING: [u32; 10] =
    [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_ffff, 0xffff_fffe, 0x1234_5678, 0xdead_beef];

/// What an operation gives: its result if it has one, and N, Z, C, V.
struct Expected {
    result: Option<u32>,
    flags: u32,
}

/// All sixteen operations by their number in the encoding, on wide integers. `carry` and `overflow` are the flags
/// before, `shifter` is the shifter's carry-out.
fn oracle(operation: u32, first: u32, second: u32, carry: bool, overflow: bool, shifter: bool) -> Expected {
    let (a, b, c) = (i128::from(first), i128::from(second), i128::from(carry));
    let signed = |value: u32| i128::from(value as i32);
    let (sa, sb) = (signed(first), signed(second));
    // The exact unsigned and signed results of arithmetic; borrows are carries that are clear.
    let arithmetic = match operation {
        2 | 10 => Some((a - b, sa - sb, true)),
        3 => Some((b - a, sb - sa, true)),
        4 | 11 => Some((a + b, sa + sb, false)),
        5 => Some((a + b + c, sa + sb + c, false)),
        6 => Some((a - b - (1 - c), sa - sb - (1 - c), true)),
        7 => Some((b - a - (1 - c), sb - sa - (1 - c), true)),
        _ => None,
    };
    let logic = match operation {
        0 | 8 => first & second,
        1 | 9 => first ^ second,
        12 => first | second,
        13 => second,
        14 => first & !second,
        _ => !second,
    };
    let (result, carry, overflow) = match arithmetic {
        Some((unsigned, signed, borrows)) => {
            let out = if borrows { unsigned >= 0 } else { unsigned > i128::from(u32::MAX) };
            (unsigned.rem_euclid(1 << 32) as u32, out, i32::try_from(signed).is_err())
        }
        None => (logic, shifter, overflow),
    };
    let flags = [(result >> 31 != 0, N), (result == 0, Z), (carry, C), (overflow, V)];
    Expected {
        result: (!(8..12).contains(&operation)).then_some(result),
        flags: flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum(),
    }
}

/// The fields that an operation does not have are zero.
fn encode(operation: u32, set_flags: bool, operand: u32) -> u32 {
    let rn = if matches!(operation, 13 | 15) { 0 } else { 1 << 16 };
    let rd = if (8..12).contains(&operation) { 0 } else { 3 << 12 };
    0xe000_0000 | operation << 21 | u32::from(set_flags) << 20 | rn | rd | operand
}

fn check(word: u32, operation: u32, before: Registers, second: u32, shifter: bool) {
    let cpsr = before.0[16];
    let expected = oracle(operation, before.0[1], second, cpsr & C != 0, cpsr & V != 0, shifter);
    let after = step(word, before);
    let mut wanted = before;
    wanted.0[15] += 4;
    if let Some(result) = expected.result {
        wanted.0[3] = result;
    }
    if word & 1 << 20 != 0 {
        wanted.0[16] = cpsr & !NZCV | expected.flags;
    }
    assert_eq!(after, wanted, "{word:#010x} on {before:x?}");
}

#[test]
fn every_operation_on_a_register() {
    for operation in 0..16 {
        for set_flags in [false, true] {
            if (8..12).contains(&operation) && !set_flags {
                continue;
            }
            for first in INTERESTING {
                for second in INTERESTING {
                    for flags in [0, C, V, NZCV] {
                        let before = registers(&[(1, first), (2, second), (16, SUPERVISOR | flags | Q | GE)]);
                        let shifter = flags & C != 0;
                        check(encode(operation, set_flags, 2), operation, before, second, shifter);
                        let zero = encode(operation, set_flags, 1 << 25);
                        check(zero, operation, before, 0, shifter);
                    }
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn every_operation_on_a_rotated_constant(
        operation in 0u32..16, set_flags: bool, immediate in 0u32..0x1000, first: u32, flags in 0u32..16,
    ) {
        let set_flags = set_flags || (8..12).contains(&operation);
        let before = registers(&[(1, first), (16, SUPERVISOR | flags << 28)]);
        let rotation = 2 * (immediate >> 8);
        let value = (u64::from(immediate & 0xff) << 32 >> rotation) as u128;
        let value = (value >> 32) as u32 | value as u32;
        let shifter = if rotation == 0 { flags & 2 != 0 } else { value >> 31 != 0 };
        check(encode(operation, set_flags, 1 << 25 | immediate), operation, before, value, shifter);
    }

    #[test]
    fn every_operation_on_a_register_shifted_by_a_constant(
        operation in 0u32..16, set_flags: bool, kind in 0u32..4, amount in 0u32..32,
        first: u32, second: u32, flags in 0u32..16,
    ) {
        let set_flags = set_flags || (8..12).contains(&operation);
        let before = registers(&[(1, first), (2, second), (16, SUPERVISOR | flags << 28)]);
        let carry = flags & 2 != 0;
        let (value, shifter) = shifted(second, kind, amount, carry, true);
        check(encode(operation, set_flags, amount << 7 | kind << 5 | 2), operation, before, value, shifter);
    }

    #[test]
    fn every_operation_on_a_register_shifted_by_a_register(
        operation in 0u32..16, set_flags: bool, kind in 0u32..4,
        amount in prop_oneof![0u32..70, any::<u32>(), Just(255u32), Just(256u32)],
        first: u32, second: u32, flags in 0u32..16,
    ) {
        let set_flags = set_flags || (8..12).contains(&operation);
        let before = registers(&[(1, first), (2, second), (4, amount), (16, SUPERVISOR | flags << 28)]);
        let carry = flags & 2 != 0;
        let (value, shifter) = shifted(second, kind, amount & 0xff, carry, false);
        check(encode(operation, set_flags, 4 << 8 | kind << 5 | 1 << 4 | 2), operation, before, value, shifter);
    }
}

/// The shifter, one bit at a time.
fn shifted(value: u32, kind: u32, amount: u32, carry: bool, constant: bool) -> (u32, bool) {
    let (amount, rrx) = match (kind, amount) {
        (1 | 2, 0) if constant => (32, false),
        (3, 0) if constant => (1, true),
        _ => (amount, false),
    };
    let mut result = (value, carry);
    for _ in 0..amount {
        let (value, carry) = result;
        result = match kind {
            0 => (value << 1, value >> 31 != 0),
            1 => (value >> 1, value & 1 != 0),
            2 => (value >> 1 | value & N, value & 1 != 0),
            _ if rrx => (value >> 1 | if carry { N } else { 0 }, value & 1 != 0),
            _ => (value.rotate_right(1), value & 1 != 0),
        };
    }
    result
}

#[test]
fn the_program_counter_reads_eight_ahead() {
    let before = registers(&[(1, 0x10)]);
    for (word, expected) in [
        (0xe28f_3004, START + 12),                  // add r3, pc, #4
        (0xe24f_3004, START + 4),                   // sub r3, pc, #4
        (0xe1a0_300f, START + 8),                   // mov r3, pc
        (0xe08f_3001, START + 0x18),                // add r3, pc, r1
        (0xe081_300f, START + 0x18),                // add r3, r1, pc
        (0xe041_310f, 0u32.wrapping_sub(0x2_0010)), // sub r3, r1, pc, lsl #2
        (0xe1e0_300f, !(START + 8)),                // mvn r3, pc
        (0xe20f_3c80, 0x8000),                      // and r3, pc, #0x8000
    ] {
        assert_eq!(step(word, before).0[3], expected, "{word:#010x}");
    }
}

#[test]
fn wide_moves_set_one_half_or_all() {
    assert_eq!(step(0xe30b_eeef, registers(&[])).0[14], 0xbeef); // movw lr, #0xbeef
    assert_eq!(step(0xe34d_eead, registers(&[(14, 0x1234_5678)])).0[14], 0xdead_5678); // movt lr, #0xdead
}

/// Every condition, against its definition in table A8-1, for all flags.
#[test]
fn conditions_hold_as_the_manual_says() {
    for condition in 0..15u32 {
        for flags in 0..16u32 {
            let [n, z, c, v] = [8, 4, 2, 1].map(|flag| flags & flag != 0);
            let holds = match condition {
                0 => z,
                1 => !z,
                2 => c,
                3 => !c,
                4 => n,
                5 => !n,
                6 => v,
                7 => !v,
                8 => c && !z,
                9 => !c || z,
                10 => n == v,
                11 => n != v,
                12 => !z && n == v,
                13 => z || n != v,
                _ => true,
            };
            // mov<c> r3, #1, after flags were loaded into CPSR and after arithmetic computed them.
            let word = condition << 28 | 0x03a0_3001;
            let before = registers(&[(3, 0), (16, SUPERVISOR | flags << 28)]);
            assert_eq!(step(word, before).0[3], u32::from(holds), "condition {condition}, flags {flags:04b}");
        }
    }
}

#[test]
fn a_status_register_survives_unpacking() {
    for cpsr in [0, !(1 << 24), SUPERVISOR, 0xa5a5_a5a5, 0x5a5a_5a5a, NZCV | GE | Q] {
        let before = registers(&[(16, cpsr)]);
        assert_eq!(Cpu::new(&before).registers(), before);
        assert_eq!(Cpu::new(&before).cpsr(), cpsr);
    }
}
