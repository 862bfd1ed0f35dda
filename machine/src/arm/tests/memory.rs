use super::*;
use AccessSize::{Byte, Double, Half, Word};

const BASE: u32 = 0x2_0000;

/// Register 1 is the base, 2 an offset.
fn before(offset: u32) -> Registers {
    registers(&[(1, BASE), (2, offset), (3, 0x8765_43a9)])
}

fn filled() -> Memory {
    let mut memory = Memory::default();
    for index in 0..32 {
        memory.put(BASE - 64 + 4 * index, 0x8091_a2b3 ^ (index << 25 | index << 16 | index << 5));
    }
    memory
}

/// One access by one instruction: the access, the value of r3 afterwards, and r1 afterwards.
#[track_caller]
fn check(word: u32, offset: u32, address: u32, size: AccessSize, r3: impl Fn(&Memory) -> u32, base: u32) {
    let start = filled();
    let mut memory = start.clone();
    let after = run(&[word], before(offset), &mut memory);
    let load = word & 1 << 20 != 0;
    let expected_r3 = if load { r3(&start) } else { before(offset).0[3] };
    assert_eq!((after.0[3], after.0[1]), (expected_r3, base), "{word:#010x}");
    let mask = u64::MAX >> (64 - 8 * size as u32);
    let access = if load {
        let word = u64::from(start.word(address)) | u64::from(start.word(address.wrapping_add(4))) << 32;
        Access::Load(address, size, word & mask)
    } else {
        Access::Store(address, size, u64::from(before(offset).0[3]) & mask)
    };
    assert_eq!(memory.accesses, [access], "{word:#010x}");
}

#[test]
fn single_loads_and_stores_in_every_addressing_mode() {
    let word = |address: u32| move |memory: &Memory| memory.word(address);
    check(0xe591_3004, 0, BASE + 4, Word, word(BASE + 4), BASE); // ldr r3, [r1, #4]
    check(0xe511_3004, 0, BASE - 4, Word, word(BASE - 4), BASE); // ldr r3, [r1, #-4]
    check(0xe591_3001, 0, BASE + 1, Word, word(BASE + 1), BASE); // ldr r3, [r1, #1]
    check(0xe791_31a2, 64, BASE + 8, Word, word(BASE + 8), BASE); // ldr r3, [r1, r2, lsr #3]
    check(0xe791_3102, 3, BASE + 12, Word, word(BASE + 12), BASE); // ldr r3, [r1, r2, lsl #2]
    check(0xe731_3002, 8, BASE - 8, Word, word(BASE - 8), BASE - 8); // ldr r3, [r1, -r2]!
    check(0xe691_3102, 4, BASE, Word, word(BASE), BASE + 16); // ldr r3, [r1], r2, lsl #2
    check(0xe5b1_3004, 0, BASE + 4, Word, word(BASE + 4), BASE + 4); // ldr r3, [r1, #4]!
    check(0xe411_3004, 0, BASE, Word, word(BASE), BASE - 4); // ldr r3, [r1], #-4
    check(0xe4b1_3004, 0, BASE, Word, word(BASE), BASE + 4); // ldrt r3, [r1], #4
    check(0xe5d1_3002, 0, BASE + 2, Byte, |memory| memory.byte(BASE + 2).into(), BASE); // ldrb r3, [r1, #2]
    check(0xe7d1_3002, 5, BASE + 5, Byte, |memory| memory.byte(BASE + 5).into(), BASE); // ldrb r3, [r1, r2]
    check(0xe4d1_3001, 0, BASE, Byte, |memory| memory.byte(BASE).into(), BASE + 1); // ldrb r3, [r1], #1
    check(0xe571_3001, 0, BASE - 1, Byte, |memory| memory.byte(BASE - 1).into(), BASE - 1); // ldrb r3, [r1, #-1]!
    let half = |address: u32| move |memory: &Memory| memory.word(address) & 0xffff;
    check(0xe1d1_30b2, 0, BASE + 2, Half, half(BASE + 2), BASE); // ldrh r3, [r1, #2]
    check(0xe191_30b2, 6, BASE + 6, Half, half(BASE + 6), BASE); // ldrh r3, [r1, r2]
    check(0xe0d1_30b2, 0, BASE, Half, half(BASE), BASE + 2); // ldrh r3, [r1], #2
    check(0xe0f1_30b4, 0, BASE, Half, half(BASE), BASE + 4); // ldrht r3, [r1], #4
    // ldrsb r3, [r1, #3] and ldrsh r3, [r1, r2]: the bytes there have their sign set.
    check(0xe1d1_30d3, 0, BASE + 3, Byte, |memory| memory.byte(BASE + 3) as i8 as u32, BASE);
    check(0xe191_30f2, 2, BASE + 2, Half, |memory| memory.word(BASE + 2) as i16 as u32, BASE);
    let unused = |_: &Memory| 0;
    check(0xe581_3004, 0, BASE + 4, Word, unused, BASE); // str r3, [r1, #4]
    check(0xe521_3004, 0, BASE - 4, Word, unused, BASE - 4); // str r3, [r1, #-4]!
    check(0xe481_3004, 0, BASE, Word, unused, BASE + 4); // str r3, [r1], #4
    check(0xe781_3102, 2, BASE + 8, Word, unused, BASE); // str r3, [r1, r2, lsl #2]
    check(0xe5c1_3001, 0, BASE + 1, Byte, unused, BASE); // strb r3, [r1, #1]
    check(0xe7c1_3002, 3, BASE + 3, Byte, unused, BASE); // strb r3, [r1, r2]
    check(0xe441_3001, 0, BASE, Byte, unused, BASE - 1); // strb r3, [r1], #-1
    check(0xe1c1_30b2, 0, BASE + 2, Half, unused, BASE); // strh r3, [r1, #2]
    check(0xe161_30b2, 0, BASE - 2, Half, unused, BASE - 2); // strh r3, [r1, #-2]!
}

#[test]
fn literals_are_eight_bytes_ahead() {
    let mut memory = Memory::default();
    let after = run(&[0xe59f_3004], before(0), &mut memory); // ldr r3, [pc, #4]
    assert_eq!(after.0[3], memory.word(START + 12));
    let after = run(&[0xe15f_30b6], before(0), &mut memory); // ldrh r3, [pc, #-6]
    assert_eq!(after.0[3], memory.word(START + 2) & 0xffff);
    // str pc, [r1]: the value stored is that of reading r15.
    run(&[0xe581_f000], before(0), &mut memory);
    assert_eq!(memory.word(BASE), START + 8);
}

#[test]
fn pairs_are_one_access() {
    let mut memory = filled();
    let after = run(&[0xe1e1_40f8], before(0), &mut memory); // strd r4, r5, [r1, #8]!
    let value = u64::from(after.0[4]) | u64::from(after.0[5]) << 32;
    assert_eq!(memory.accesses, [Access::Store(BASE + 8, Double, value)]);
    assert_eq!(after.0[1], BASE + 8);

    let mut memory = filled();
    let after = run(&[0xe081_40d2], before(20), &mut memory); // ldrd r4, r5, [r1], r2
    assert_eq!((after.0[4], after.0[5]), (memory.word(BASE), memory.word(BASE + 4)));
    assert_eq!((after.0[1], memory.accesses.len()), (BASE + 20, 1));

    // ldrd r4, r5, [r4]: the base is loaded over.
    let mut memory = filled();
    let after = run(&[0xe1c4_40d0], registers(&[(4, BASE)]), &mut memory);
    assert_eq!((after.0[4], after.0[5]), (memory.word(BASE), memory.word(BASE + 4)));
}

/// The loads of an LDM: (register, address).
#[track_caller]
fn check_load_multiple(word: u32, loads: &[(usize, u32)], base: u32) {
    let mut memory = filled();
    let after = run(&[word], before(0), &mut memory);
    let accesses: Vec<Access> =
        loads.iter().map(|&(_, address)| Access::Load(address, Word, memory.word(address).into())).collect();
    assert_eq!(memory.accesses, accesses, "{word:#010x}");
    for &(register, address) in loads {
        assert_eq!(after.0[register], memory.word(address), "{word:#010x}");
    }
    if loads.iter().all(|&(register, _)| register != 1) {
        assert_eq!(after.0[1], base, "{word:#010x}");
    }
}

#[test]
fn multiple_loads_rise_through_memory() {
    let three = |lowest: u32| [(2, lowest), (3, lowest + 4), (4, lowest + 8)];
    check_load_multiple(0xe8b1_001c, &three(BASE), BASE + 12); // ldmia r1!, {r2, r3, r4}
    check_load_multiple(0xe9b1_001c, &three(BASE + 4), BASE + 12); // ldmib r1!, {r2, r3, r4}
    check_load_multiple(0xe831_001c, &three(BASE - 8), BASE - 12); // ldmda r1!, {r2, r3, r4}
    check_load_multiple(0xe931_001c, &three(BASE - 12), BASE - 12); // ldmdb r1!, {r2, r3, r4}
    check_load_multiple(0xe991_000c, &three(BASE + 4)[..2], BASE); // ldmib r1, {r2, r3}
    // ldm r1, {r0, r1, r2}: the loaded base wins.
    check_load_multiple(0xe891_0007, &[(0, BASE), (1, BASE + 4), (2, BASE + 8)], BASE);
}

#[test]
fn multiple_stores_rise_through_memory() {
    let check = |word: u32, stores: &[(u32, u32)], base: u32| {
        let mut memory = Memory::default();
        let after = run(&[word], before(0), &mut memory);
        let accesses: Vec<Access> =
            stores.iter().map(|&(address, value)| Access::Store(address, Word, value.into())).collect();
        assert_eq!(memory.accesses, accesses, "{word:#010x}");
        assert_eq!(after.0[1], base, "{word:#010x}");
    };
    let [r2, r3] = [before(0).0[2], before(0).0[3]];
    check(0xe801_000c, &[(BASE - 4, r2), (BASE, r3)], BASE); // stmda r1, {r2, r3}
    check(0xe921_000c, &[(BASE - 8, r2), (BASE - 4, r3)], BASE - 8); // stmdb r1!, {r2, r3}
    check(0xe9a1_8004, &[(BASE + 4, r2), (BASE + 8, START + 8)], BASE + 8); // stmib r1!, {r2, pc}
    // stmia r1!, {r1, r2, r3}: the lowest register is the base before write-back.
    check(0xe8a1_000e, &[(BASE, BASE), (BASE + 4, r2), (BASE + 8, r3)], BASE + 12);
}

#[test]
fn addresses_wrap_around() {
    let mut memory = Memory::default();
    // stmia r1!, {r1, r2, r3} from the last word.
    run(&[0xe8a1_000e], registers(&[(1, 0xffff_fffc)]), &mut memory);
    let addresses: Vec<u32> = memory
        .accesses
        .iter()
        .map(|access| if let Access::Store(address, ..) = *access { address } else { 1 })
        .collect();
    assert_eq!(addresses, [0xffff_fffc, 0, 4]);
    // ldr r3, [r1, #4]
    let mut memory = Memory::default();
    run(&[0xe591_3004], registers(&[(1, 0xffff_fffe)]), &mut memory);
    assert!(matches!(memory.accesses[..], [Access::Load(2, ..)]));
}

#[test]
fn a_refused_access_ends_the_instruction() {
    // mov r0, r0; ldm r1, {r0, r1, r2}
    let block = arm_block(&[0xe1a0_0000, 0xe891_0007]);
    for limit in 0..3 {
        let mut memory = Memory { limit: Some(limit), ..Memory::default() };
        assert_eq!(Cpu::new(&before(0)).run(&block, 0, 2, &mut memory), Exit::Halted(1));
        assert_eq!(memory.accesses.len(), limit);
    }
}
