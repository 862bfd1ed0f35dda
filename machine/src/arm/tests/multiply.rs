use super::*;
use proptest::prelude::*;

/// Register 1 is `rn`, 2 is `rm`, 3 and 4 are accumulators and destinations.
fn operands(n: u32, m: u32, low: u32, high: u32) -> Registers {
    registers(&[(1, n), (2, m), (3, low), (4, high), (16, SUPERVISOR | C | V)])
}

fn pair(registers: &Registers) -> u64 {
    u64::from(registers.0[4]) << 32 | u64::from(registers.0[3])
}

fn bottom(value: u32) -> i128 {
    i128::from(value as i16)
}

fn top(value: u32) -> i128 {
    i128::from((value >> 16) as i16)
}

fn signed(value: u32) -> i128 {
    i128::from(value as i32)
}

/// Checks a 32-bit result that sets Q if it does not fit.
fn check_q(word: u32, before: Registers, exact: i128) {
    let after = step(word, before);
    assert_eq!(after.0[3], exact as u32, "{word:#010x} on {before:x?}");
    let overflows = i32::try_from(exact).is_err();
    assert_eq!(after.0[16], before.0[16] | if overflows { Q } else { 0 }, "{word:#010x} on {before:x?}");
}

fn check_pair(word: u32, before: Registers, exact: i128) {
    let after = step(word, before);
    assert_eq!(pair(&after), exact as u64, "{word:#010x} on {before:x?}");
    assert_eq!(after.0[16], before.0[16]);
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        prop::sample::select(vec![0, 1, 0x8000, 0x7fff, 0x8000_0000, 0x7fff_ffff, 0x8000_8000, u32::MAX]),
    ]
}

proptest! {
    #[test]
    fn words(n in value(), m in value(), a in value(), h in value()) {
        let before = operands(n, m, a, h);
        let product = i128::from(n) * i128::from(m);
        for (word, exact) in [
            (0xe003_0291, product),                     // mul r3, r1, r2
            (0xe023_3291, product + i128::from(a)),     // mla r3, r1, r2, r3
            (0xe063_3291, i128::from(a) - product),     // mls r3, r1, r2, r3
        ] {
            let after = step(word, before);
            prop_assert_eq!(after.0[3], exact as u32);
            prop_assert_eq!(after.0[16], before.0[16]);
        }
        // muls r3, r1, r2: C and V stay.
        let after = step(0xe013_0291, before);
        let expected = SUPERVISOR | C | V | product as u32 & N | if product as u32 == 0 { Z } else { 0 };
        prop_assert_eq!(after.0[16], expected);
    }

    #[test]
    fn long(n in value(), m in value(), low in value(), high in value()) {
        let before = operands(n, m, low, high);
        let accumulator = i128::from(pair(&before));
        let (unsigned, signed) = (i128::from(n) * i128::from(m), signed(n) * signed(m));
        check_pair(0xe084_3291, before, unsigned);                  // umull r3, r4, r1, r2
        check_pair(0xe0a4_3291, before, unsigned + accumulator);    // umlal r3, r4, r1, r2
        check_pair(0xe0c4_3291, before, signed);                    // smull r3, r4, r1, r2
        check_pair(0xe0e4_3291, before, signed + accumulator);      // smlal r3, r4, r1, r2
        check_pair(0xe044_3291, before, unsigned + i128::from(low) + i128::from(high)); // umaal r3, r4, r1, r2
        // smlals r3, r4, r1, r2
        let after = step(0xe0f4_3291, before);
        let result = (signed + accumulator) as u64;
        let flags = (result >> 32) as u32 & N | if result == 0 { Z } else { 0 };
        prop_assert_eq!(after.0[16], SUPERVISOR | C | V | flags);
    }

    #[test]
    fn halves(n in value(), m in value(), low in value(), high in value()) {
        let before = operands(n, m, low, high);
        let accumulator = i128::from(pair(&before));
        for (x, first) in [(0, bottom(n)), (1 << 5, top(n))] {
            for (y, second) in [(0, bottom(m)), (1 << 6, top(m))] {
                check_q(0xe163_0281 | x | y, before, first * second);                   // smul<x><y> r3, r1, r2
                check_q(0xe103_3281 | x | y, before, first * second + signed(low));     // smla<x><y> r3, r1, r2, r3
                check_pair(0xe144_3281 | x | y, before, first * second + accumulator);  // smlal<x><y> r3, r4, r1, r2
            }
        }
        for (y, second) in [(0, bottom(m)), (1 << 6, top(m))] {
            check_q(0xe123_02a1 | y, before, (signed(n) * second) >> 16);                   // smulw<y> r3, r1, r2
            check_q(0xe123_3281 | y, before, ((signed(n) * second) >> 16) + signed(low));   // smlaw<y> r3, r1, r2, r3
        }
    }

    #[test]
    fn dual(n in value(), m in value(), low in value(), high in value()) {
        let before = operands(n, m, low, high);
        let accumulator = i128::from(pair(&before));
        for (x, first, second) in
            [(0, bottom(n) * bottom(m), top(n) * top(m)), (1 << 5, bottom(n) * top(m), top(n) * bottom(m))]
        {
            check_q(0xe703_f211 | x, before, first + second);                   // smuad{x} r3, r1, r2
            check_q(0xe703_f251 | x, before, first - second);                   // smusd{x} r3, r1, r2
            check_q(0xe703_3211 | x, before, first + second + signed(low));     // smlad{x} r3, r1, r2, r3
            check_q(0xe703_3251 | x, before, first - second + signed(low));     // smlsd{x} r3, r1, r2, r3
            check_pair(0xe744_3211 | x, before, accumulator + first + second);  // smlald{x} r3, r4, r1, r2
            check_pair(0xe744_3251 | x, before, accumulator + first - second);  // smlsld{x} r3, r4, r1, r2
        }
    }

    #[test]
    fn most_significant_words(n in value(), m in value(), a in value()) {
        let before = operands(n, m, a, 0);
        let product = signed(n) * signed(m);
        let accumulator = signed(a) << 32;
        for (round, half) in [(0, 0), (1 << 5, 1 << 31)] {
            for (word, exact) in [
                (0xe753_f211, product),                 // smmul{r} r3, r1, r2
                (0xe753_3211, accumulator + product),   // smmla{r} r3, r1, r2, r3
                (0xe753_32d1, accumulator - product),   // smmls{r} r3, r1, r2, r3
            ] {
                let after = step(word | round, before);
                prop_assert_eq!(after.0[3], ((exact + half) >> 32) as u32);
                prop_assert_eq!(after.0[16], before.0[16]);
            }
        }
    }

    #[test]
    fn divisions(n in value(), m in prop_oneof![value(), 0u32..20]) {
        let before = operands(n, m, 0, 0);
        let quotient = |n: i128, m: i128| if m == 0 { 0 } else { (n / m) as u32 };
        prop_assert_eq!(step(0xe713_f211, before).0[3], quotient(signed(n), signed(m))); // sdiv r3, r1, r2
        prop_assert_eq!(step(0xe733_f211, before).0[3], quotient(n.into(), m.into()));   // udiv r3, r1, r2
    }
}

#[test]
fn the_smallest_number_divided_by_minus_one_wraps() {
    assert_eq!(step(0xe713_f211, operands(0x8000_0000, u32::MAX, 0, 0)).0[3], 0x8000_0000);
}

/// QEMU's own example: two additions that check for overflow separately would set Q here.
#[test]
fn smlad_looks_at_the_whole_sum() {
    let before = operands(0x8000_8000, 0x8000_8000, u32::MAX, 0);
    check_q(0xe703_3211, before, (1 << 31) - 1);
    assert_eq!(step(0xe703_3211, before).0[16] & Q, 0);
}
