use super::*;
use proptest::prelude::*;

const ADD16: u32 = 0;
const ASX: u32 = 1;
const SAX: u32 = 2;
const SUB16: u32 = 3;
const ADD8: u32 = 4;
const SUB8: u32 = 7;

/// A parallel operation by its fields in the encoding: `kind` in bits 22:20, `operation` in bits 7:5. Gives the result
/// and GE.
fn parallel(kind: u32, operation: u32, a: u32, b: u32) -> (u32, u32) {
    let width = if matches!(operation, ADD8 | SUB8) { 8 } else { 16 };
    let lanes = 32 / width;
    let is_signed = kind < 4;
    let field = |value: u32, lane: u32| -> i64 {
        let raw = i64::from(value >> (lane * width)) & ((1 << width) - 1);
        if is_signed && raw >> (width - 1) != 0 { raw - (1 << width) } else { raw }
    };
    let (mut result, mut ge) = (0u64, 0);
    for lane in 0..lanes {
        let crossed = matches!(operation, ASX | SAX);
        let subtract = match operation {
            SUB16 | SUB8 => true,
            ASX => lane == 0,
            SAX => lane == 1,
            _ => false,
        };
        let first = field(a, lane);
        let second = field(b, if crossed { 1 - lane } else { lane });
        let exact = if subtract { first - second } else { first + second };
        let (low, high) =
            if is_signed { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) };
        let value = match kind & 3 {
            1 => exact,
            2 => exact.max(low).min(high),
            _ => exact.div_euclid(2),
        };
        let flag = if is_signed || subtract { exact >= 0 } else { exact >> width != 0 };
        result |= (value as u64 & ((1 << width) - 1)) << (lane * width);
        ge |= if !flag {
            0
        } else if width == 8 {
            1 << lane
        } else {
            3 << (2 * lane)
        };
    }
    (result as u32, ge)
}

proptest! {
    #[test]
    fn parallel_arithmetic(a: u32, b: u32, ge in 0u32..16) {
        let before = registers(&[(1, a), (2, b), (16, SUPERVISOR | ge << 16)]);
        for kind in [1, 2, 3, 5, 6, 7] {
            for operation in [ADD16, ASX, SAX, SUB16, ADD8, SUB8] {
                let word = 0xe601_3f12 | kind << 20 | operation << 5;
                let (result, new_ge) = parallel(kind, operation, a, b);
                let after = step(word, before);
                prop_assert_eq!(after.0[3], result, "{:#010x}", word);
                let expected = if matches!(kind, 1 | 5) { new_ge } else { ge };
                prop_assert_eq!(after.0[16], SUPERVISOR | expected << 16, "{:#010x}", word);
            }
        }
    }

    #[test]
    fn selection(a: u32, b: u32, ge in 0u32..16) {
        let before = registers(&[(1, a), (2, b), (16, SUPERVISOR | ge << 16)]);
        let after = step(0xe681_3fb2, before); // sel r3, r1, r2
        let from = |lane: usize| if ge >> lane & 1 != 0 { a } else { b };
        prop_assert_eq!(after.0[3].to_le_bytes(), [0, 1, 2, 3].map(|lane| from(lane).to_le_bytes()[lane]));
    }

    #[test]
    fn saturating_additions(n: u32, m: u32) {
        let before = registers(&[(1, n), (2, m)]);
        let saturated = |value: i64| (value.max(i32::MIN.into()).min(i32::MAX.into()), i32::try_from(value).is_err());
        let (n, m) = (i64::from(n as i32), i64::from(m as i32));
        for (operation, doubled, sign) in [(0, false, 1), (1, false, -1), (2, true, 1), (3, true, -1)] {
            // q{d}<add|sub> r3, r2, r1
            let word = 0xe101_3052 | operation << 21;
            let (second, first_q) = if doubled { saturated(2 * n) } else { (n, false) };
            let (result, q) = saturated(m + sign * second);
            let after = step(word, before);
            prop_assert_eq!(after.0[3], result as u32);
            prop_assert_eq!(after.0[16] & Q != 0, q || first_q);
        }
    }

    #[test]
    fn saturation(value: u32, bits in 0u32..32, amount in 0u32..32, right: bool) {
        let before = registers(&[(1, value)]);
        let shifted = match (right, amount) {
            (false, _) => i64::from((value << amount) as i32),
            (true, 0) => i64::from(value as i32) >> 32,
            (true, _) => i64::from(value as i32) >> amount,
        };
        let fields = bits << 16 | amount << 7 | u32::from(right) << 6;
        let expected = shifted.max(-(1 << bits)).min((1 << bits) - 1);
        let after = step(0xe6a0_3011 | fields, before); // ssat r3, #bits + 1, r1, ...
        prop_assert_eq!((after.0[3], after.0[16] & Q != 0), (expected as u32, expected != shifted));
        let expected = shifted.max(0).min((1 << bits) - 1);
        let after = step(0xe6e0_3011 | fields, before); // usat r3, #bits, r1, ...
        prop_assert_eq!((after.0[3], after.0[16] & Q != 0), (expected as u32, expected != shifted));

        let bits = bits & 15;
        let halves = [value as i16, (value >> 16) as i16];
        let pack = |halves: [i32; 2]| halves[0] as u32 & 0xffff | (halves[1] as u32) << 16;
        let signed = halves.map(|half| i32::from(half).max(-(1 << bits)).min((1 << bits) - 1));
        let after = step(0xe6a0_3f31 | bits << 16, before); // ssat16 r3, #bits + 1, r1
        prop_assert_eq!((after.0[3], after.0[16] & Q != 0), (pack(signed), signed != halves.map(i32::from)));
        let unsigned = halves.map(|half| i32::from(half).max(0).min((1 << bits) - 1));
        let after = step(0xe6e0_3f31 | bits << 16, before); // usat16 r3, #bits, r1
        prop_assert_eq!((after.0[3], after.0[16] & Q != 0), (pack(unsigned), unsigned != halves.map(i32::from)));
    }

    #[test]
    fn extensions(addend: u32, value: u32, rotation in 0u32..4) {
        let before = registers(&[(1, addend), (2, value)]);
        // The bytes and halves of a value that repeats, so that a rotation is only another place.
        let repeated = u64::from(value) << 32 | u64::from(value);
        let byte = |at: u32| (repeated >> (8 * (rotation + at))) as u8;
        let half = (repeated >> (8 * rotation)) as u16;
        for (word, plain) in [
            (0xe6af_3072, byte(0) as i8 as u32),    // sxtb r3, r2
            (0xe6bf_3072, half as i16 as u32),      // sxth
            (0xe6ef_3072, byte(0).into()),          // uxtb
            (0xe6ff_3072, half.into()),             // uxth
        ] {
            let word = word | rotation << 10;
            prop_assert_eq!(step(word, before).0[3], plain);
            // The same with an addend in r1.
            let sum = (u64::from(plain) + u64::from(addend)) as u32;
            prop_assert_eq!(step(word & !0x000f_0000 | 1 << 16, before).0[3], sum);
        }
        for (word, low, high) in [
            (0xe68f_3072, byte(0) as i8 as i64, byte(2) as i8 as i64),  // sxtb16
            (0xe6cf_3072, byte(0).into(), byte(2).into()),              // uxtb16
        ] {
            let word = word | rotation << 10;
            let pack = |low: i64, high: i64| (low & 0xffff | (high & 0xffff) << 16) as u32;
            prop_assert_eq!(step(word, before).0[3], pack(low, high));
            let sum = pack(low + i64::from(addend & 0xffff), high + i64::from(addend >> 16));
            prop_assert_eq!(step(word & !0x000f_0000 | 1 << 16, before).0[3], sum);
        }
    }

    #[test]
    fn bit_fields(value: u32, old: u32, (lsb, width) in (0u32..32).prop_flat_map(|lsb| (Just(lsb), 1..=32 - lsb))) {
        let before = registers(&[(1, value), (3, old)]);
        let bit = |value: u32, index: u32| value >> index & 1;
        let unsigned: u32 = (0..width).map(|index| bit(value, lsb + index) << index).sum();
        let sign = bit(value, lsb + width - 1);
        let signed = i64::from(unsigned) - (i64::from(sign) << width);
        prop_assert_eq!(step(0xe7e0_3051 | (width - 1) << 16 | lsb << 7, before).0[3], unsigned);       // ubfx r3, r1
        prop_assert_eq!(step(0xe7a0_3051 | (width - 1) << 16 | lsb << 7, before).0[3], signed as u32);  // sbfx r3, r1
        let inserted = |from: u32| -> u32 {
            let inside = |index: u32| (lsb..lsb + width).contains(&index);
            (0..32).map(|index| if inside(index) { bit(from, index - lsb) } else { bit(old, index) } << index).sum()
        };
        let word = 0xe7c0_3011 | (lsb + width - 1) << 16 | lsb << 7;
        prop_assert_eq!(step(word, before).0[3], inserted(value));  // bfi r3, r1
        prop_assert_eq!(step(word | 15, before).0[3], inserted(0)); // bfc r3
    }

    #[test]
    fn packing(a: u32, b: u32, amount in 0u32..32) {
        let before = registers(&[(1, a), (2, b)]);
        let left = (u64::from(b) << amount) as u32;
        let right = (i64::from(b as i32) >> if amount == 0 { 32 } else { amount }) as u32;
        prop_assert_eq!(step(0xe681_3012 | amount << 7, before).0[3], left >> 16 << 16 | a & 0xffff);   // pkhbt r3, r1, r2
        prop_assert_eq!(step(0xe681_3052 | amount << 7, before).0[3], a >> 16 << 16 | right & 0xffff);  // pkhtb r3, r1, r2
    }

    #[test]
    fn sums_of_absolute_differences(a: u32, b: u32, c: u32) {
        let before = registers(&[(1, a), (2, b), (3, c)]);
        let byte = |value: u32, lane: u32| i64::from(value >> (8 * lane) & 0xff);
        let sum: i64 = (0..4).map(|lane| (byte(a, lane) - byte(b, lane)).abs()).sum();
        prop_assert_eq!(step(0xe783_f211, before).0[3], sum as u32);                        // usad8 r3, r1, r2
        prop_assert_eq!(step(0xe783_3211, before).0[3], (sum + i64::from(c)) as u32);       // usada8 r3, r1, r2, r3
    }
}

#[test]
fn reversals_and_counts() {
    for (word, value, expected) in [
        (0xe6bf_3f31, 0x1234_5678, 0x7856_3412), // rev r3, r1
        (0xe6bf_3fb1, 0x1234_5678, 0x3412_7856), // rev16 r3, r1
        (0xe6ff_3fb1, 0x1234_5680, 0xffff_8056), // revsh r3, r1
        (0xe6ff_3fb1, 0x1234_8056, 0x0000_5680),
        (0xe6ff_3f31, 0x8000_0003, 0xc000_0001), // rbit r3, r1
        (0xe16f_3f11, 0, 32),                    // clz r3, r1
        (0xe16f_3f11, 1, 31),
        (0xe16f_3f11, 0x8000_0000, 0),
    ] {
        assert_eq!(step(word, registers(&[(1, value)])).0[3], expected, "{word:#010x}");
    }
}
