use proptest::prelude::*;

use super::*;

/// Registers 0 to 7 hold 0x100 times their number, others are not known; memory below 0x1000 holds its own addresses'
/// lower bytes and is little-endian, the rest is not known.
struct Made;

impl State for Made {
    fn register(&mut self, number: u16) -> Option<u64> {
        (number < 8).then(|| u64::from(number) * 0x100)
    }

    fn memory(&mut self, address: u64, size: usize) -> Option<u64> {
        let end = address.checked_add(size as u64)?;
        (end <= 0x1000).then(|| (address..end).rev().fold(0, |value, address| value << 8 | (address & 0xff)))
    }
}

fn value(bytecode: &[u8]) -> Result<u64, Undecided> {
    Expression::decode(bytecode).expect("well-formed").evaluate(&mut Made)
}

/// The value of two constants and one operation on them.
fn applied(left: u64, right: u64, opcode: u8) -> Result<u64, Undecided> {
    let mut bytecode = vec![0x25];
    bytecode.extend_from_slice(&left.to_be_bytes());
    bytecode.push(0x25);
    bytecode.extend_from_slice(&right.to_be_bytes());
    bytecode.extend_from_slice(&[opcode, 0x27]);
    value(&bytecode)
}

#[test]
fn operations_take_the_uppermost_value_on_the_right() {
    let minus = |value: u64| value.wrapping_neg();
    for (left, right, opcode, expected) in [
        (5, 7, 0x02, 12),
        (5, 7, 0x03, minus(2)),
        (u64::MAX, 3, 0x04, minus(3)),
        (minus(7), 2, 0x05, minus(3)),
        (1 << 63, u64::MAX, 0x05, 1 << 63),
        (minus(8), 2, 0x06, (1 << 63) - 4),
        (minus(7), 2, 0x07, minus(1)),
        (1 << 63, u64::MAX, 0x07, 0),
        (7, 4, 0x08, 3),
        (1, 63, 0x09, 1 << 63),
        (minus(8), 2, 0x0a, minus(2)),
        (minus(8), 60, 0x0b, 15),
        (12, 10, 0x0f, 8),
        (12, 10, 0x10, 14),
        (12, 10, 0x11, 6),
        (7, 7, 0x13, 1),
        (7, 8, 0x13, 0),
        (minus(1), 0, 0x14, 1),
        (minus(1), 0, 0x15, 0),
        (0, 1, 0x15, 1),
        (3, 4, 0x2b, 3),
    ] {
        assert_eq!(applied(left, right, opcode), Ok(expected), "{left:#x} {opcode:#x} {right:#x}");
    }
    for opcode in [0x05, 0x06, 0x07, 0x08] {
        assert_eq!(applied(1, 0, opcode), Err(Undecided::Undefined));
    }
    for opcode in [0x09, 0x0a, 0x0b] {
        assert_eq!(applied(1, 64, opcode), Err(Undecided::Undefined));
        assert_eq!(applied(1, 1 << 32, opcode), Err(Undecided::Undefined));
    }
}

#[test]
fn the_stack_is_moved_as_the_manual_shows_it() {
    // a b c on the stack, then the operation; what is left is read from above as decimal digits.
    let digits = |operation: &[u8], values: usize| {
        let mut found = Vec::new();
        for depth in 0..values {
            let mut bytecode = vec![0x22, 1, 0x22, 2, 0x22, 3];
            bytecode.extend_from_slice(operation);
            bytecode.extend_from_slice(&[0x32, depth as u8, 0x27]);
            found.push(value(&bytecode).expect("a value"));
        }
        found.reverse();
        found
    };
    assert_eq!(digits(&[], 3), [1, 2, 3]);
    assert_eq!(digits(&[0x28], 4), [1, 2, 3, 3]);
    assert_eq!(digits(&[0x29], 2), [1, 2]);
    assert_eq!(digits(&[0x2b], 3), [1, 3, 2]);
    assert_eq!(digits(&[0x32, 2], 4), [1, 2, 3, 1]);
    assert_eq!(digits(&[0x33], 3), [3, 1, 2]);
}

#[test]
fn one_value_is_extended_negated_and_dereferenced() {
    for (bytecode, expected) in [
        (&[0x22, 0x80, 0x16, 8, 0x27][..], 0_u64.wrapping_sub(0x80)),
        (&[0x22, 0x7f, 0x16, 8, 0x27], 0x7f),
        (&[0x23, 0x12, 0x34, 0x2a, 8, 0x27], 0x34),
        (&[0x22, 0, 0x12, 0x2a, 32, 0x27], 0xffff_ffff),
        (&[0x22, 0, 0x12, 0x16, 64, 0x27], u64::MAX),
        (&[0x22, 7, 0x0e, 0x27], 0),
        (&[0x22, 0, 0x0e, 0x27], 1),
        (&[0x24, 0x12, 0x34, 0x56, 0x78, 0x27], 0x1234_5678),
        (&[0x26, 0, 5, 0x27], 0x500),
        (&[0x22, 0x10, 0x17, 0x27], 0x10),
        (&[0x22, 0x10, 0x18, 0x27], 0x1110),
        (&[0x22, 0x10, 0x19, 0x27], 0x1312_1110),
        (&[0x22, 0x10, 0x1a, 0x27], 0x1716_1514_1312_1110),
    ] {
        assert_eq!(value(bytecode), Ok(expected), "{bytecode:02x?}");
    }
}

#[test]
fn what_is_not_known_or_not_implemented_decides_nothing_and_holds() {
    for (bytecode, reason) in [
        (&[0x26, 0, 8, 0x27][..], Undecided::Unavailable),
        (&[0x23, 0x0f, 0xfd, 0x19, 0x27], Undecided::Unavailable),
        // A trace state variable, a floating-point load, and an opcode that gdb has not got.
        (&[0x2c, 0, 1, 0x27], Undecided::NotImplemented),
        (&[0x22, 0, 0x1b, 0x27], Undecided::NotImplemented),
        (&[0xff], Undecided::NotImplemented),
        (&[0x22, 1, 0x16, 0, 0x27], Undecided::NotImplemented),
        (&[0x21, 0, 0], Undecided::TooLong),
    ] {
        assert_eq!(value(bytecode), Err(reason), "{bytecode:02x?}");
        let expression = Expression::decode(bytecode).expect("well-formed");
        assert!(Condition::any_of(vec![expression]).holds(&mut Made));
    }
    // It does not matter where it is not reached: `1 || unknown`.
    assert_eq!(value(&[0x22, 1, 0x20, 0, 9, 0x26, 0, 99, 0x27, 0x22, 1, 0x27]), Ok(1));
}

#[test]
fn one_true_expression_is_enough_and_none_means_always() {
    let expression = |value: u8| Expression::decode(&[0x22, value, 0x27]).expect("well-formed");
    let holds = |values: &[u8]| {
        Condition::any_of(values.iter().map(|value| expression(*value)).collect()).holds(&mut Made)
    };
    assert!(holds(&[]) && holds(&[0, 0, 3]) && !holds(&[0]) && !holds(&[0, 0]));
}

#[test]
fn malformed_bytecode_is_told_before_it_is_used() {
    for (bytecode, reason) in [
        (&[][..], Malformed::NoEnd),
        (&[0x22, 1], Malformed::NoEnd),
        (&[0x25, 0, 0, 0], Malformed::NoEnd),
        (&[0x27], Malformed::Stack),
        (&[0x22, 1, 0x02, 0x27], Malformed::Stack),
        (&[0x22, 1, 0x32, 1, 0x27], Malformed::Stack),
        (&[0x21, 0, 3], Malformed::Jump),
        (&[0x22, 0, 0x20, 0xff, 0xff, 0x22, 0, 0x27], Malformed::Jump),
        // A loop that pushes for ever, and two ways to one place.
        (&[0x22, 0, 0x21, 0, 0], Malformed::UnevenStack),
        (&[0x22, 0, 0x20, 0, 7, 0x22, 1, 0x22, 2, 0x27], Malformed::UnevenStack),
    ] {
        assert_eq!(Expression::decode(bytecode), Err(reason), "{bytecode:02x?}");
    }
    let high: Vec<u8> = [0x22, 0].repeat(65).into_iter().chain([0x27]).collect();
    assert_eq!(Expression::decode(&high), Err(Malformed::Stack));
    assert!(Expression::decode(&high[2..]).is_ok());
    assert_eq!(Expression::decode(&[0; 0x4001]), Err(Malformed::TooLong));
}

/// Executes bytecode as it stands, without decoding it first. It panics where it takes what is not there.
fn reference(bytecode: &[u8]) -> Result<u64, Undecided> {
    let (mut stack, mut at) = (Vec::new(), 0);
    for _ in 0..MOST_STEPS * 2 {
        let operand = |bytes: usize| {
            bytecode[at + 1..at + 1 + bytes].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        let opcode = bytecode[at];
        let mut pop = || stack.pop().expect("a value");
        let mut next = at + 1;
        match opcode {
            0x02..=0x0b | 0x0f..=0x11 | 0x13..=0x15 => {
                let (right, left) = (pop(), pop());
                stack.push(applied(left, right, opcode)?);
            }
            0x0e => {
                let value = pop();
                stack.push(u64::from(value == 0));
            }
            0x12 => {
                let value = pop();
                stack.push(!value);
            }
            0x16 | 0x2a => {
                next += 1;
                let bits = operand(1);
                // No width, which gdb never sends, is as good as an unknown opcode: nothing is looked at.
                if bits == 0 {
                    return Err(Undecided::NotImplemented);
                }
                let value = pop();
                let mask = match bits {
                    1..64 => (1 << bits) - 1,
                    _ => u64::MAX,
                };
                let negative = opcode == 0x16 && bits < 64 && value >> (bits - 1) & 1 != 0;
                stack.push(if negative { value | !mask } else { value & mask });
            }
            0x17..=0x1a => {
                let address = pop();
                let size = 1 << (opcode - 0x17);
                stack.push(Made.memory(address, size).ok_or(Undecided::Unavailable)?);
            }
            0x20 => {
                next = if pop() != 0 { operand(2) as usize } else { at + 3 };
            }
            0x21 => next = operand(2) as usize,
            0x22..=0x25 => {
                let bytes = 1 << (opcode - 0x22);
                next += bytes;
                let value = operand(bytes);
                stack.push(value);
            }
            0x26 => {
                next += 2;
                let number = operand(2) as u16;
                stack.push(Made.register(number).ok_or(Undecided::Unavailable)?);
            }
            0x27 => return Ok(pop()),
            0x28 => {
                let value = pop();
                stack.extend([value, value]);
            }
            0x29 => {
                pop();
            }
            0x2b => {
                let (upper, lower) = (pop(), pop());
                stack.extend([upper, lower]);
            }
            0x32 => {
                next += 1;
                let place = stack.len() - 1 - operand(1) as usize;
                stack.push(stack[place]);
            }
            0x33 => {
                let (upper, middle, lower) = (pop(), pop(), pop());
                stack.extend([upper, lower, middle]);
            }
            _ => return Err(Undecided::NotImplemented),
        }
        at = next;
    }
    Err(Undecided::TooLong)
}

/// Bytecode of which much is well-formed: instructions whose operands are small.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let instruction = (0x00_u8..0x38, 0_u8..24, any::<[u8; 8]>()).prop_map(|(opcode, small, random)| {
        let mut bytes = vec![opcode];
        match opcode {
            0x16 | 0x2a | 0x0d => bytes.push(small * 3),
            0x32 => bytes.push(small % 4),
            0x20 | 0x21 | 0x26 => bytes.extend([0, small]),
            0x22..=0x25 => bytes.extend_from_slice(&random[..1 << (opcode - 0x22)]),
            _ => {}
        }
        bytes
    });
    proptest::collection::vec(instruction, 0..12).prop_map(|instructions| {
        // Values to begin with, so that the stack is seldom too low, and an end.
        let mut bytecode = vec![0x22, 9, 0x22, 1, 0x22, 5];
        bytecode.extend(instructions.concat());
        bytecode.push(0x27);
        bytecode
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_admitted_means_the_same_as_the_bytecode(bytecode in likely()) {
        if let Ok(expression) = Expression::decode(&bytecode) {
            prop_assert!(expression.size() <= 2 * bytecode.len());
            let (ours, theirs) = (expression.evaluate(&mut Made), reference(&bytecode));
            // Decoding may add jumps, so that the limit on steps need not be reached at the same place.
            if theirs != Err(Undecided::TooLong) {
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn any_bytes_are_decided(bytecode in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(expression) = Expression::decode(&bytecode) {
            let _ = expression.evaluate(&mut Made);
        }
    }
}
