//! The decoders against a disassembler, capstone, on random encodings: what is modelled must have a mnemonic of the same
//! family there, and what capstone does not know must be opaque. Operands are for `random_instructions` to check.

use capstone::prelude::*;
use ktrace_machine::arm::instruction::{
    DataOperation, Extend, Instruction, Operand, ParallelKind, ParallelOperation, SaturatingOperation, Shift,
    ShiftKind, Unary, Width,
};
use ktrace_machine::arm::{a32, t32};
use ktrace_machine::mips::{instruction as mips, mips32};

const ENCODINGS: usize = 300_000;

/// Beginnings that the mnemonic may have.
fn families(instruction: &Instruction) -> Vec<String> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    match *instruction {
        Instruction::Data { operation, operand, .. } => names(match operation {
            DataOperation::And => &["and"],
            DataOperation::Eor => &["eor"],
            DataOperation::Sub => &["sub"],
            DataOperation::Rsb => &["rsb", "neg"],
            // ADD to the program counter has its own name in capstone's A32.
            DataOperation::Add => &["add"],
            DataOperation::Adc => &["adc"],
            DataOperation::Sbc => &["sbc"],
            DataOperation::Rsc => &["rsc"],
            DataOperation::Tst => &["tst"],
            DataOperation::Teq => &["teq"],
            DataOperation::Cmp => &["cmp"],
            DataOperation::Cmn => &["cmn"],
            DataOperation::Orr => &["orr"],
            DataOperation::Bic => &["bic"],
            DataOperation::Mvn => &["mvn"],
            DataOperation::Orn => &["orn"],
            DataOperation::Mov => match operand {
                Operand::Immediate { .. } => &["mov", "movw"],
                Operand::Register { shift: Shift { kind, .. }, .. }
                | Operand::RegisterShifted { kind, .. } => match kind {
                    ShiftKind::Lsl => &["mov", "lsl"],
                    ShiftKind::Lsr => &["lsr"],
                    ShiftKind::Asr => &["asr"],
                    ShiftKind::Ror => &["ror"],
                    ShiftKind::Rrx => &["rrx"],
                },
            },
        }),
        Instruction::AddressOf { .. } => names(&["adr", "add", "sub"]),
        Instruction::MoveTop { .. } => names(&["movt"]),
        Instruction::Multiply { accumulate: None, .. } => names(&["mul"]),
        Instruction::Multiply { subtract: true, .. } => names(&["mls"]),
        Instruction::Multiply { .. } => names(&["mla"]),
        Instruction::MultiplyLong { signed, accumulate, .. } => names(match (signed, accumulate) {
            (true, true) => &["smlal"],
            (true, false) => &["smull"],
            (false, true) => &["umlal"],
            (false, false) => &["umull"],
        }),
        Instruction::MultiplyAccumulateAccumulate { .. } => names(&["umaal"]),
        Instruction::MultiplyHalves { accumulate: None, .. } => names(&["smulb", "smult"]),
        Instruction::MultiplyHalves { .. } => names(&["smlab", "smlat"]),
        Instruction::MultiplyWordHalf { accumulate: None, .. } => names(&["smulw"]),
        Instruction::MultiplyWordHalf { .. } => names(&["smlaw"]),
        Instruction::MultiplyHalvesLong { .. } => names(&["smlalb", "smlalt"]),
        Instruction::MultiplyDual { accumulate, subtract, .. } => names(match (accumulate, subtract) {
            (None, false) => &["smuad"],
            (None, true) => &["smusd"],
            (Some(_), false) => &["smlad"],
            (Some(_), true) => &["smlsd"],
        }),
        Instruction::MultiplyDualLong { subtract, .. } => {
            names(if subtract { &["smlsld"] } else { &["smlald"] })
        }
        Instruction::MultiplyMostSignificant { accumulate, subtract, .. } => {
            names(match (accumulate, subtract) {
                (None, _) => &["smmul"],
                (Some(_), false) => &["smmla"],
                (Some(_), true) => &["smmls"],
            })
        }
        Instruction::Divide { signed, .. } => names(if signed { &["sdiv"] } else { &["udiv"] }),
        Instruction::SaturatingArithmetic { operation, .. } => names(match operation {
            SaturatingOperation::Add => &["qadd"],
            SaturatingOperation::Sub => &["qsub"],
            SaturatingOperation::DoubleAdd => &["qdadd"],
            SaturatingOperation::DoubleSub => &["qdsub"],
        }),
        Instruction::Saturate { signed, .. } => names(if signed { &["ssat"] } else { &["usat"] }),
        Instruction::Saturate16 { signed, .. } => names(if signed { &["ssat16"] } else { &["usat16"] }),
        Instruction::Parallel { kind, operation, .. } => {
            let prefix = match kind {
                ParallelKind::Signed => "s",
                ParallelKind::SignedSaturating => "q",
                ParallelKind::SignedHalving => "sh",
                ParallelKind::Unsigned => "u",
                ParallelKind::UnsignedSaturating => "uq",
                ParallelKind::UnsignedHalving => "uh",
            };
            let rest = match operation {
                ParallelOperation::Add16 => "add16",
                ParallelOperation::Asx => "asx",
                ParallelOperation::Sax => "sax",
                ParallelOperation::Sub16 => "sub16",
                ParallelOperation::Add8 => "add8",
                ParallelOperation::Sub8 => "sub8",
            };
            vec![format!("{prefix}{rest}")]
        }
        Instruction::Select { .. } => names(&["sel"]),
        Instruction::SumAbsoluteDifferences { accumulate: None, .. } => names(&["usad8"]),
        Instruction::SumAbsoluteDifferences { .. } => names(&["usada8"]),
        Instruction::Pack { top_bottom, .. } => names(if top_bottom { &["pkhtb"] } else { &["pkhbt"] }),
        Instruction::Extend { extend, add, .. } => {
            let (sign, size) = match extend {
                Extend::SignedByte => ('s', "b"),
                Extend::SignedHalf => ('s', "h"),
                Extend::SignedByte16 => ('s', "b16"),
                Extend::UnsignedByte => ('u', "b"),
                Extend::UnsignedHalf => ('u', "h"),
                Extend::UnsignedByte16 => ('u', "b16"),
            };
            vec![format!("{sign}xt{}{size}", if add.is_some() { "a" } else { "" })]
        }
        Instruction::BitFieldInsert { rn, .. } => names(if rn.is_some() { &["bfi"] } else { &["bfc"] }),
        Instruction::BitFieldExtract { signed, .. } => names(if signed { &["sbfx"] } else { &["ubfx"] }),
        Instruction::Unary { operation, .. } => names(match operation {
            Unary::ReverseBytes => &["rev"],
            Unary::ReverseBytes16 => &["rev16"],
            Unary::ReverseBytesSignedHalf => &["revsh"],
            Unary::ReverseBits => &["rbit"],
            Unary::CountLeadingZeros => &["clz"],
        }),
        Instruction::Load { width, .. } => names(match width {
            Width::Byte => &["ldrb"],
            Width::SignedByte => &["ldrsb"],
            Width::Half => &["ldrh"],
            Width::SignedHalf => &["ldrsh"],
            Width::Word => &["ldr", "pop"],
        }),
        Instruction::Store { width, .. } => names(match width {
            Width::Byte | Width::SignedByte => &["strb"],
            Width::Half | Width::SignedHalf => &["strh"],
            Width::Word => &["str", "push"],
        }),
        Instruction::LoadDual { .. } => names(&["ldrd"]),
        Instruction::StoreDual { .. } => names(&["strd"]),
        Instruction::LoadMultiple { .. } => names(&["ldm", "pop"]),
        Instruction::StoreMultiple { .. } => names(&["stm", "push"]),
        Instruction::Branch { link: false, .. } => names(&["b"]),
        Instruction::Branch { link: true, .. } => names(&["bl"]),
        Instruction::BranchExchange { .. } => names(&["blx"]),
        Instruction::BranchRegister { link, .. } => names(if link { &["blx"] } else { &["bx"] }),
        Instruction::CompareBranch { nonzero, .. } => names(if nonzero { &["cbnz"] } else { &["cbz"] }),
        Instruction::TableBranch { halfword, .. } => names(if halfword { &["tbh"] } else { &["tbb"] }),
        Instruction::IfThen { .. } => names(&["it"]),
        Instruction::Nop => names(&[
            "nop", "yield", "wfe", "wfi", "sev", "hint", "dbg", "pld", "pli", "dmb", "dsb", "isb", "csdb",
            "esb",
        ]),
        Instruction::Opaque(_) => names(&[""]),
    }
}

/// What capstone calls an encoding.
fn name(disassembler: &Capstone, code: &[u8]) -> Option<String> {
    let instructions = disassembler.disasm_count(code, 0x1000, 1).expect("capstone disassembles");
    let first = instructions.first()?;
    Some(format!("{} {}", first.mnemonic().unwrap_or_default(), first.op_str().unwrap_or_default()))
}

/// Encodings that the architecture manual defines and capstone does not.
fn capstone_is_wrong(instruction: &Instruction) -> bool {
    // Reserved hints and unallocated memory hints do nothing.
    matches!(instruction, Instruction::Nop)
}

struct Disagreement {
    code: String,
    capstone: Option<String>,
    instruction: Instruction,
}

fn check(disassembler: &Capstone, code: &[u8], instruction: Instruction) -> Option<Disagreement> {
    if matches!(instruction, Instruction::Opaque(_)) {
        return None;
    }
    let capstone = name(disassembler, code);
    let agreed = match &capstone {
        None => capstone_is_wrong(&instruction),
        Some(name) => families(&instruction).iter().any(|family| name.starts_with(family.as_str())),
    };
    let code = code.iter().rev().map(|byte| format!("{byte:02x}")).collect();
    (!agreed).then_some(Disagreement { code, capstone, instruction })
}

fn report(disagreements: &[Disagreement]) {
    for Disagreement { code, capstone, instruction } in disagreements.iter().take(40) {
        eprintln!("{code}: {instruction:?}, but capstone says {capstone:?}");
    }
    assert!(disagreements.is_empty(), "{} disagreements", disagreements.len());
}

#[test]
fn t32() {
    let disassembler =
        Capstone::new().arm().mode(arch::arm::ArchMode::Thumb).build().expect("capstone starts");
    let mut random = fastrand::Rng::with_seed(0x7432);
    let mut modelled = 0;
    let mut disagreements = Vec::new();
    let narrow = (0..0xe800).map(|first| (first, 0));
    let wide = std::iter::repeat_with(|| (random.u16(0xe800..), random.u16(..))).take(ENCODINGS);
    for (first, second) in narrow.chain(wide) {
        let decoded = t32::decode(first, second, false);
        let code = [first.to_le_bytes(), second.to_le_bytes()].concat();
        let code = &code[..usize::from(decoded.length)];
        modelled += usize::from(!matches!(decoded.instruction, Instruction::Opaque(_)));
        disagreements.extend(check(&disassembler, code, decoded.instruction));
    }
    report(&disagreements);
    assert!(modelled > 100_000, "only {modelled} encodings are modelled");
}
#[test]
fn a32() {
    let disassembler = Capstone::new().arm().mode(arch::arm::ArchMode::Arm).build().expect("capstone starts");
    let mut random = fastrand::Rng::with_seed(0x6132);
    let mut modelled = 0;
    let mut disagreements = Vec::new();
    for _ in 0..ENCODINGS {
        let word = random.u32(..);
        let decoded = a32::decode(word);
        modelled += usize::from(!matches!(decoded.instruction, Instruction::Opaque(_)));
        disagreements.extend(check(&disassembler, &word.to_le_bytes(), decoded.instruction));
    }
    report(&disagreements);
    assert!(modelled > 100_000, "only {modelled} encodings are modelled");
}

/// Beginnings that the mnemonic of a MIPS instruction may have. (`mips` has its own names for some operands: `move`,
/// `negu`, `b`, `bal`, `beqz`.)
fn mips_families(instruction: &mips::Instruction) -> &'static [&'static str] {
    use mips::{
        Accumulate, Condition, ImmediateOperation, Instruction, RegisterOperation, ShiftKind, Unary, Width,
    };
    match *instruction {
        Instruction::Nop => {
            &["nop", "ssnop", "ehb", "pause", "sync", "pref", "cache", "sll", "srl", "sra", "rotr"]
        }
        Instruction::Trap => &["t"],
        Instruction::Register { operation, .. } => match operation {
            RegisterOperation::Add => &["add "],
            RegisterOperation::Addu => &["addu", "move"],
            RegisterOperation::Sub => &["sub ", "neg "],
            RegisterOperation::Subu => &["subu", "negu"],
            RegisterOperation::And => &["and "],
            RegisterOperation::Or => &["or ", "move"],
            RegisterOperation::Xor => &["xor "],
            RegisterOperation::Nor => &["nor ", "not "],
            RegisterOperation::Slt => &["slt "],
            RegisterOperation::Sltu => &["sltu "],
            RegisterOperation::Mul => &["mul "],
            RegisterOperation::Movz => &["movz "],
            RegisterOperation::Movn => &["movn "],
        },
        Instruction::Immediate { operation, .. } => match operation {
            ImmediateOperation::Addi => &["addi "],
            ImmediateOperation::Addiu => &["addiu", "li "],
            ImmediateOperation::Slti => &["slti "],
            ImmediateOperation::Sltiu => &["sltiu "],
            ImmediateOperation::Andi => &["andi "],
            ImmediateOperation::Ori => &["ori "],
            ImmediateOperation::Xori => &["xori "],
        },
        Instruction::LoadUpper { .. } => &["lui "],
        Instruction::Shift { kind, .. } | Instruction::ShiftVariable { kind, .. } => match kind {
            ShiftKind::Left => &["sll"],
            ShiftKind::Right => &["srl"],
            ShiftKind::RightArithmetic => &["sra"],
            ShiftKind::Rotate => &["rotr"],
        },
        Instruction::Unary { operation, .. } => match operation {
            Unary::SignExtendByte => &["seb "],
            Unary::SignExtendHalf => &["seh "],
            Unary::SwapBytesInHalves => &["wsbh "],
            Unary::CountLeadingZeros => &["clz "],
            Unary::CountLeadingOnes => &["clo "],
        },
        Instruction::ExtractField { .. } => &["ext "],
        Instruction::InsertField { .. } => &["ins "],
        Instruction::Multiply { signed, accumulate, .. } => match (accumulate, signed) {
            (Accumulate::No, true) => &["mult "],
            (Accumulate::No, false) => &["multu "],
            (Accumulate::Add, true) => &["madd "],
            (Accumulate::Add, false) => &["maddu "],
            (Accumulate::Subtract, true) => &["msub "],
            (Accumulate::Subtract, false) => &["msubu "],
        },
        Instruction::Divide { signed: true, .. } => &["div "],
        Instruction::Divide { signed: false, .. } => &["divu "],
        Instruction::Move { .. } => {
            &["mfhi", "mflo", "mthi", "mtlo", "mfc1", "mtc1", "mfhc1", "mthc1", "cfc1", "mov.s"]
        }
        Instruction::MovePair { .. } => &["mov.d"],
        Instruction::MoveOnFlag { set, .. } => {
            if set {
                &["movt "]
            } else {
                &["movf "]
            }
        }
        Instruction::Load { width, .. } => match width {
            Width::Byte => &["lbu "],
            Width::SignedByte => &["lb "],
            Width::Half => &["lhu "],
            Width::SignedHalf => &["lh "],
            Width::Word => &["lw ", "lwc1 "],
        },
        Instruction::Store { width, .. } => match width {
            Width::Byte | Width::SignedByte => &["sb "],
            Width::Half | Width::SignedHalf => &["sh "],
            Width::Word => &["sw ", "swc1 "],
        },
        Instruction::LoadPair { .. } => &["ldc1 "],
        Instruction::StorePair { .. } => &["sdc1 "],
        Instruction::LoadPart { left, .. } => {
            if left {
                &["lwl "]
            } else {
                &["lwr "]
            }
        }
        Instruction::StorePart { left, .. } => {
            if left {
                &["swl "]
            } else {
                &["swr "]
            }
        }
        Instruction::Branch { condition, .. } => match condition {
            // BLTZAL of r0 is one that always goes to where it leads anyway.
            Condition::Always => &["b ", "beq", "blez", "bgez", "bal ", "bltzal "],
            Condition::Equal { .. } => &["beq"],
            Condition::NotEqual { .. } => &["bne"],
            Condition::Negative(_) => &["bltz"],
            Condition::NotNegative(_) => &["bgez"],
            Condition::Positive(_) => &["bgtz"],
            Condition::NotPositive(_) => &["blez"],
            Condition::Flag { set: true, .. } => &["bc1t"],
            Condition::Flag { set: false, .. } => &["bc1f"],
        },
        Instruction::BranchNever { .. } => &["bne", "bgtz", "bltz"],
        Instruction::Jump { link: false, .. } => &["j "],
        Instruction::Jump { exchange: true, .. } => &["jalx "],
        Instruction::Jump { .. } => &["jal "],
        Instruction::JumpRegister { rd: 0, .. } => &["jr", "jalr"],
        Instruction::JumpRegister { .. } => &["jalr"],
        Instruction::OpaqueBranch(_) | Instruction::Opaque(_) => &[""],
    }
}

/// Encodings that QEMU takes for a branch, or that the architecture manual defines, and capstone does not know.
fn capstone_does_not_know(word: u32, instruction: &mips::Instruction) -> bool {
    use mips::Instruction;
    match instruction {
        // QEMU ignores rt of the likely forms, and the fields that must be zero.
        Instruction::Branch { .. } | Instruction::BranchNever { .. } => word >> 27 == 0b01011,
        Instruction::JumpRegister { .. } => true,
        // MFHC1 and MTHC1 of an odd register are those of the even one below.
        Instruction::Move { .. } => word & 0xff60_0800 == 0x4460_0800,
        // Reserved types of SYNC are what type 0 is.
        Instruction::Nop => word & 0xffff_f83f == 0x0000_000f,
        _ => false,
    }
}

#[test]
fn mips32() {
    let disassembler = Capstone::new()
        .mips()
        .mode(arch::mips::ArchMode::Mips32)
        .endian(capstone::Endian::Little)
        .build()
        .expect("capstone starts");
    let mode = ktrace_machine::mips::Mode::of_processor(false).with_release_2();
    let mut random = fastrand::Rng::with_seed(0x6d69);
    let mut modelled = 0;
    let mut disagreements = Vec::new();
    for number in 0..ENCODINGS {
        let mut word = random.u32(..);
        // Must-be-zero fields are zero more often than by chance.
        if number % 2 == 0 {
            word &= [0xffff_f83f, 0xfc1f_f83f, 0xffff_003f, 0xffe0_ffff][random.usize(..4)];
        }
        if number % 4 < 2 {
            let opcode = [0, 0x1c, 0x1f, 0x11][random.usize(..4)];
            word = word & 0x03ff_ffff | opcode << 26;
        }
        let instruction = mips32::decode(word, mode);
        if matches!(instruction, mips::Instruction::Opaque(_) | mips::Instruction::OpaqueBranch(_)) {
            continue;
        }
        modelled += 1;
        let name = name(&disassembler, &word.to_le_bytes());
        let agreed = match &name {
            None => capstone_does_not_know(word, &instruction),
            Some(name) => mips_families(&instruction).iter().any(|family| name.starts_with(family)),
        };
        if !agreed {
            disagreements.push(format!("{word:08x}: {instruction:?}, but capstone says {name:?}"));
        }
    }
    for disagreement in disagreements.iter().take(40) {
        eprintln!("{disagreement}");
    }
    assert!(disagreements.is_empty(), "{} disagreements", disagreements.len());
    assert!(modelled > 90_000, "only {modelled} encodings are modelled");
}

/// Nothing is known of compressed instructions but their lengths.
#[test]
fn micromips_lengths() {
    let disassembler = Capstone::new()
        .mips()
        .mode(arch::mips::ArchMode::Mips32)
        .extra_mode([arch::mips::ArchExtraMode::Micro].into_iter())
        .endian(capstone::Endian::Big)
        .build()
        .expect("capstone starts");
    let processor = ktrace_machine::mips::Mode::of_processor(true).with_micromips();
    let mode = ktrace_machine::mips::Mode::at(processor, 0, 1);
    let mut random = fastrand::Rng::with_seed(0x6d6d);
    let mut known = 0;
    for first in 0..=u16::MAX {
        // A halfword that has two bytes as an instruction of its own.
        let second = random.u16(..) & 0xe3ff | 0x0400;
        let code = [first.to_be_bytes(), second.to_be_bytes()].concat();
        let instructions = disassembler.disasm_count(&code, 0x1000, 1).expect("capstone disassembles");
        let Some(instruction) = instructions.first() else { continue };
        let block = ktrace_machine::mips::block::Block::decode(0x1000, mode, &code).expect("it is a block");
        let length = block.length_of(0) as usize;
        assert_eq!(length, instruction.bytes().len(), "{first:04x} {second:04x}: {instruction}");
        known += 1;
    }
    assert!(known > 30_000, "only {known} are known to capstone");
}
