//! Encodings as a table. A pattern is its bits from the top, `0` and `1` as they are and letters for fields:
//!
//! | letter | field |
//! |---|---|
//! | `d`, `D` | a destination register, the same for both |
//! | `n` | the same, but not r0 |
//! | `s`, `t` | source registers |
//! | `b` | a register that points into the sandbox |
//! | `o` | an offset from that, a multiple of the pattern's alignment |
//! | `i` | an immediate, with its extremes preferred |
//! | `f`, `g` | floating-point registers |
//! | `F`, `G` | the same, mostly even |
//! | `x` | random bits |
//!
//! A letter stands for one value in a pattern, except `x`.

/// What a processor must have to execute a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Release 2.
    Release2,
    /// A floating-point unit.
    Fpu,
}

/// One encoding.
#[derive(Debug)]
pub struct Pattern {
    /// For statistics and messages.
    pub name: &'static str,
    /// The bits; spaces do not count.
    pub bits: &'static str,
    /// How often it is drawn, compared with the others.
    pub weight: u32,
    /// What its address is a multiple of.
    pub alignment: u32,
    /// What it needs.
    pub needs: Needs,
}

const fn pattern(name: &'static str, weight: u32, bits: &'static str) -> Pattern {
    Pattern { name, bits, weight, alignment: 1, needs: Needs::Nothing }
}

const fn access(name: &'static str, weight: u32, alignment: u32, bits: &'static str) -> Pattern {
    Pattern { name, bits, weight, alignment, needs: Needs::Nothing }
}

const fn release_2(name: &'static str, weight: u32, bits: &'static str) -> Pattern {
    Pattern { name, bits, weight, alignment: 1, needs: Needs::Release2 }
}

const fn fpu(name: &'static str, weight: u32, alignment: u32, bits: &'static str) -> Pattern {
    Pattern { name, bits, weight, alignment, needs: Needs::Fpu }
}

/// All of them but branches.
pub const PATTERNS: &[Pattern] = &[
    pattern("sll", 6, "000000 00000 ttttt ddddd xxxxx 000000"),
    pattern("srl", 6, "000000 00000 ttttt ddddd xxxxx 000010"),
    pattern("sra", 6, "000000 00000 ttttt ddddd xxxxx 000011"),
    release_2("rotr", 6, "000000 00001 ttttt ddddd xxxxx 000010"),
    pattern("sllv", 4, "000000 sssss ttttt ddddd 00000 000100"),
    pattern("srlv", 4, "000000 sssss ttttt ddddd 00000 000110"),
    pattern("srav", 4, "000000 sssss ttttt ddddd 00000 000111"),
    release_2("rotrv", 4, "000000 sssss ttttt ddddd 00001 000110"),
    pattern("movz, movn", 6, "000000 sssss ttttt ddddd 00000 00101x"),
    pattern("sync", 1, "000000 00000 00000 00000 xxxxx 001111"),
    pattern("mfhi, mflo", 8, "000000 00000 00000 ddddd 00000 0100x0"),
    pattern("mthi, mtlo", 4, "000000 sssss 00000 00000 00000 0100x1"),
    pattern("mult", 4, "000000 sssss ttttt 00000 00000 011000"),
    pattern("multu", 4, "000000 sssss ttttt 00000 00000 011001"),
    pattern("div", 6, "000000 sssss ttttt 00000 00000 011010"),
    pattern("divu", 6, "000000 sssss ttttt 00000 00000 011011"),
    pattern("add", 2, "000000 sssss ttttt ddddd 00000 100000"),
    pattern("addu", 6, "000000 sssss ttttt ddddd 00000 100001"),
    pattern("sub", 2, "000000 sssss ttttt ddddd 00000 100010"),
    pattern("subu", 6, "000000 sssss ttttt ddddd 00000 100011"),
    pattern("and, or, xor, nor", 10, "000000 sssss ttttt ddddd 00000 1001xx"),
    pattern("slt, sltu", 8, "000000 sssss ttttt ddddd 00000 10101x"),
    pattern("trap", 1, "000000 sssss ttttt xxxxx xxxxx 1100xx"),
    pattern("tne", 1, "000000 sssss sssss xxxxx xxxxx 110110"),
    pattern("trap immediate", 1, "000001 sssss 010xx iiiiiiiiiiiiiiii"),
    pattern("addi", 2, "001000 sssss ddddd iiiiiiiiiiiiiiii"),
    pattern("addiu", 8, "001001 sssss ddddd iiiiiiiiiiiiiiii"),
    pattern("slti, sltiu", 6, "00101x sssss ddddd iiiiiiiiiiiiiiii"),
    pattern("andi, ori", 6, "00110x sssss ddddd iiiiiiiiiiiiiiii"),
    pattern("xori", 3, "001110 sssss ddddd iiiiiiiiiiiiiiii"),
    pattern("lui", 3, "001111 00000 ddddd iiiiiiiiiiiiiiii"),
    pattern("madd, msub", 8, "011100 sssss ttttt 00000 00000 000x0x"),
    pattern("mul", 5, "011100 sssss ttttt ddddd 00000 000010"),
    pattern("clz", 3, "011100 sssss DDDDD ddddd 00000 100000"),
    pattern("clo", 3, "011100 sssss DDDDD ddddd 00000 100001"),
    release_2("ext", 8, "011111 sssss ddddd xxxxx xxxxx 000000"),
    release_2("ins", 10, "011111 sssss ddddd xxxxx xxxxx 000100"),
    release_2("seb", 3, "011111 00000 ttttt ddddd 10000 100000"),
    release_2("seh", 3, "011111 00000 ttttt ddddd 11000 100000"),
    release_2("wsbh", 3, "011111 00000 ttttt ddddd 00010 100000"),
    release_2("rdhwr", 1, "011111 00000 ddddd 00000 00000 111011"),
    access("lb", 5, 1, "100000 bbbbb ddddd oooooooooooooooo"),
    access("lh", 5, 2, "100001 bbbbb ddddd oooooooooooooooo"),
    access("lwl", 6, 1, "100010 bbbbb ddddd oooooooooooooooo"),
    access("lw", 10, 4, "100011 bbbbb ddddd oooooooooooooooo"),
    access("lbu", 5, 1, "100100 bbbbb ddddd oooooooooooooooo"),
    access("lhu", 5, 2, "100101 bbbbb ddddd oooooooooooooooo"),
    access("lwr", 6, 1, "100110 bbbbb ddddd oooooooooooooooo"),
    access("sb", 6, 1, "101000 bbbbb ttttt oooooooooooooooo"),
    access("sh", 6, 2, "101001 bbbbb ttttt oooooooooooooooo"),
    access("swl", 6, 1, "101010 bbbbb ttttt oooooooooooooooo"),
    access("sw", 10, 4, "101011 bbbbb ttttt oooooooooooooooo"),
    access("swr", 6, 1, "101110 bbbbb ttttt oooooooooooooooo"),
    access("cache", 1, 1, "101111 bbbbb xxxxx oooooooooooooooo"),
    access("ll", 2, 4, "110000 bbbbb ddddd oooooooooooooooo"),
    access("pref", 1, 1, "110011 bbbbb xxxxx oooooooooooooooo"),
    access("sc", 2, 4, "111000 bbbbb nnnnn oooooooooooooooo"),
    release_2("synci", 1, "000001 bbbbb 11111 oooooooooooooooo"),
    pattern("mfc0 status", 1, "010000 00000 ddddd 01100 00000000 000"),
    release_2("di", 2, "010000 01011 ddddd 01100 00000 000000"),
    release_2("ei", 2, "010000 01011 ddddd 01100 00000 100000"),
    release_2("rdpgpr", 1, "010000 01010 ttttt ddddd 00000 000000"),
    fpu("movf, movt", 8, 1, "000000 sssss xxx0x ddddd 00000 000001"),
    fpu("mfc1", 8, 1, "010001 00000 ddddd fffff 00000 000000"),
    fpu("mfhc1", 4, 1, "010001 00011 ddddd fffff 00000 000000"),
    fpu("mtc1", 8, 1, "010001 00100 ttttt fffff 00000 000000"),
    fpu("mthc1", 4, 1, "010001 00111 ttttt fffff 00000 000000"),
    fpu("cfc1 fcsr", 4, 1, "010001 00010 ddddd 11111 00000 000000"),
    fpu("cfc1 fir", 1, 1, "010001 00010 ddddd 00000 00000 000000"),
    fpu("cfc1", 1, 1, "010001 00010 ddddd 11xxx 00000 000000"),
    fpu("ctc1", 1, 1, "010001 00110 00000 11001 00000 000000"),
    fpu("mov.s", 6, 1, "010001 10000 00000 fffff ggggg 000110"),
    fpu("mov.d", 6, 1, "010001 10001 00000 FFFFF GGGGG 000110"),
    fpu("arithmetic.s", 6, 1, "010001 10000 fffff fffff ggggg 000xxx"),
    fpu("arithmetic.d", 6, 1, "010001 10001 FFFFF FFFFF GGGGG 000xxx"),
    fpu("c.cond.s", 8, 1, "010001 10000 fffff fffff xxx00 11xxxx"),
    fpu("c.cond.d", 4, 1, "010001 10001 FFFFF FFFFF xxx00 11xxxx"),
    fpu("cvt.d.s", 2, 1, "010001 10000 00000 FFFFF GGGGG 100001"),
    fpu("cvt.s.d", 2, 1, "010001 10001 00000 FFFFF GGGGG 100000"),
    fpu("cvt.w", 3, 1, "010001 1000x 00000 FFFFF GGGGG 100100"),
    fpu("cvt.x.w", 4, 1, "010001 10100 00000 FFFFF GGGGG 10000x"),
    fpu("movcf", 3, 1, "010001 1000x xxx0x FFFFF GGGGG 010001"),
    fpu("lwc1", 8, 4, "110001 bbbbb fffff oooooooooooooooo"),
    fpu("ldc1", 8, 8, "110101 bbbbb FFFFF oooooooooooooooo"),
    fpu("swc1", 8, 4, "111001 bbbbb fffff oooooooooooooooo"),
    fpu("sdc1", 8, 8, "111101 bbbbb FFFFF oooooooooooooooo"),
];
