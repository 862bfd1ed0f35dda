//! The decoders against a disassembler, capstone, on random encodings: what is modelled must have a mnemonic of the same
//! family there, and what capstone does not know must be opaque. Operands are for `random_instructions` to check.

use capstone::prelude::*;
use ktrace_machine::arm::instruction::{
    DataOperation, Extend, Instruction, Operand, ParallelKind, ParallelOperation, SaturatingOperation, Shift,
    ShiftKind, Unary, Width,
};
use ktrace_machine::arm::{a32, t32};

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
