//! Encodings as tables. A pattern is its bits from the top, `0` and `1` as they are and letters for fields:
//!
//! | letter | field |
//! |---|---|
//! | `c` | a condition, mostly "always" |
//! | `d`, `D` | destination registers |
//! | `n`, `m`, `a` | source registers |
//! | `b` | a register that points into the sandbox |
//! | `B` | the same, and the address is aligned |
//! | `o` | a register with a small value |
//! | `t`, `T` | registers to load or store |
//! | `e` | an even register to load or store, its successor with it |
//! | `l` | a list of registers |
//! | `i` | an immediate, with its extremes preferred |
//! | `k`, `y` | amount and kind of an offset's shift, mostly small and left |
//! | `x` | random bits |
//!
//! Some fillings are UNPREDICTABLE; the generator draws again when the decoder says so.

/// One encoding.
#[derive(Debug)]
pub struct Pattern {
    /// For statistics and messages.
    pub name: &'static str,
    /// The bits; spaces do not count.
    pub bits: &'static str,
    /// How often it is drawn, compared with the others of its table.
    pub weight: u32,
}

const fn pattern(name: &'static str, weight: u32, bits: &'static str) -> Pattern {
    Pattern { name, bits, weight }
}

/// A32.
pub const A32: &[Pattern] = &[
    pattern("data immediate", 8, "cccc 0010 xxxx nnnn dddd iiiiiiiiiiii"),
    pattern("data immediate", 4, "cccc 0011 1xxx nnnn dddd iiiiiiiiiiii"),
    pattern("compare immediate", 4, "cccc 0011 0xx1 nnnn 0000 iiiiiiiiiiii"),
    pattern("move immediate", 3, "cccc 0011 1x1x 0000 dddd iiiiiiiiiiii"),
    pattern("data shifted", 12, "cccc 0000 xxxx nnnn dddd iiiii xx0 mmmm"),
    pattern("data shifted", 6, "cccc 0001 1xxx nnnn dddd iiiii xx0 mmmm"),
    pattern("compare shifted", 5, "cccc 0001 0xx1 nnnn 0000 iiiii xx0 mmmm"),
    pattern("move shifted", 6, "cccc 0001 1x1x 0000 dddd iiiii xx0 mmmm"),
    pattern("data by register", 6, "cccc 0000 xxxx nnnn dddd aaaa 0xx1 mmmm"),
    pattern("data by register", 4, "cccc 0001 1xxx nnnn dddd aaaa 0xx1 mmmm"),
    pattern("compare by register", 3, "cccc 0001 0xx1 nnnn 0000 aaaa 0xx1 mmmm"),
    pattern("move by register", 4, "cccc 0001 1x1x 0000 dddd aaaa 0xx1 mmmm"),
    pattern("movw, movt", 3, "cccc 0011 0x00 iiii dddd iiiiiiiiiiii"),
    pattern("mul", 2, "cccc 0000 000x dddd 0000 mmmm 1001 nnnn"),
    pattern("mla", 2, "cccc 0000 001x dddd aaaa mmmm 1001 nnnn"),
    pattern("umaal", 1, "cccc 0000 0100 dddd DDDD mmmm 1001 nnnn"),
    pattern("mls", 1, "cccc 0000 0110 dddd aaaa mmmm 1001 nnnn"),
    pattern("long multiply", 4, "cccc 0000 1xxx dddd DDDD mmmm 1001 nnnn"),
    pattern("smlaxy", 2, "cccc 0001 0000 dddd aaaa mmmm 1xx0 nnnn"),
    pattern("smlawy", 2, "cccc 0001 0010 dddd aaaa mmmm 1x00 nnnn"),
    pattern("smulwy", 1, "cccc 0001 0010 dddd 0000 mmmm 1x10 nnnn"),
    pattern("smlalxy", 2, "cccc 0001 0100 dddd DDDD mmmm 1xx0 nnnn"),
    pattern("smulxy", 1, "cccc 0001 0110 dddd 0000 mmmm 1xx0 nnnn"),
    pattern("saturating", 3, "cccc 0001 0xx0 nnnn dddd 0000 0101 mmmm"),
    pattern("clz", 1, "cccc 0001 0110 1111 dddd 1111 0001 mmmm"),
    pattern("parallel", 8, "cccc 0110 0xxx nnnn dddd 1111 xxx1 mmmm"),
    pattern("pkh", 2, "cccc 0110 1000 nnnn dddd iiiii x01 mmmm"),
    pattern("sel", 3, "cccc 0110 1000 nnnn dddd 1111 1011 mmmm"),
    pattern("saturate", 4, "cccc 0110 1x1 iiiii dddd iiiii x01 nnnn"),
    pattern("saturate 16", 2, "cccc 0110 1x10 iiii dddd 1111 0011 nnnn"),
    pattern("extend and add", 3, "cccc 0110 1xxx nnnn dddd xx00 0111 mmmm"),
    pattern("extend", 3, "cccc 0110 1xxx 1111 dddd xx00 0111 mmmm"),
    pattern("reverse", 2, "cccc 0110 1x11 1111 dddd 1111 x011 mmmm"),
    pattern("dual multiply", 3, "cccc 0111 0000 dddd aaaa mmmm 0xx1 nnnn"),
    pattern("dual multiply", 1, "cccc 0111 0000 dddd 1111 mmmm 0xx1 nnnn"),
    pattern("long dual multiply", 2, "cccc 0111 0100 dddd DDDD mmmm 0xx1 nnnn"),
    pattern("smmla", 2, "cccc 0111 0101 dddd aaaa mmmm 00x1 nnnn"),
    pattern("smmul", 1, "cccc 0111 0101 dddd 1111 mmmm 00x1 nnnn"),
    pattern("smmls", 2, "cccc 0111 0101 dddd aaaa mmmm 11x1 nnnn"),
    pattern("divide", 2, "cccc 0111 00x1 dddd 1111 mmmm 0001 nnnn"),
    pattern("usada8", 1, "cccc 0111 1000 dddd aaaa mmmm 0001 nnnn"),
    pattern("usad8", 1, "cccc 0111 1000 dddd 1111 mmmm 0001 nnnn"),
    pattern("bit field extract", 3, "cccc 0111 1x1 iiiii dddd iiiii 101 nnnn"),
    pattern("bfi", 2, "cccc 0111 110 iiiii dddd iiiii 001 nnnn"),
    pattern("bfc", 1, "cccc 0111 110 iiiii dddd iiiii 001 1111"),
    pattern("load, store", 10, "cccc 010x xxxx bbbb tttt iiiiiiiiiiii"),
    pattern("load, store by register", 8, "cccc 011x xxxx bbbb tttt kkkkk yy0 oooo"),
    pattern("load literal", 2, "cccc 0101 x0x1 1111 tttt 0000 iiiiiiii"),
    pattern("load, store half", 4, "cccc 000x x1xx bbbb tttt iiii 1011 iiii"),
    pattern("load signed", 4, "cccc 000x x1x1 bbbb tttt iiii 11x1 iiii"),
    pattern("load, store dual", 4, "cccc 000x x1x0 BBBB eeee iiii 11x1 ii00"),
    pattern("load, store half by register", 3, "cccc 000x x0xx bbbb tttt 0000 1011 oooo"),
    pattern("load signed by register", 3, "cccc 000x x0x1 bbbb tttt 0000 11x1 oooo"),
    pattern("load, store dual by register", 3, "cccc 000x x0x0 BBBB eeee 0000 11x1 oooo"),
    pattern("load, store multiple", 8, "cccc 100x x0xx BBBB llllllllllllllll"),
    pattern("hint", 1, "cccc 0011 0010 0000 1111 0000 0000 0xx0"),
    pattern("preload", 1, "1111 0101 xx01 bbbb 1111 iiiiiiiiiiii"),
    pattern("barrier", 1, "1111 0101 0111 1111 1111 0000 01xx 1111"),
    pattern("mrs", 1, "cccc 0001 0000 1111 dddd 0000 0000 0000"),
    pattern("msr flags", 1, "cccc 0001 0010 xx00 1111 0000 0000 mmmm"),
    pattern("mrc", 1, "cccc 1110 0001 0000 tttt 1111 0xx1 000x"),
    pattern("vfp", 2, "cccc 1110 xxxx xxxx xxxx 101x xxx0 xxxx"),
    pattern("neon", 1, "1111 001x xxxx xxxx xxxx xxxx xxxx xxxx"),
    pattern("vmov", 1, "cccc 1110 000x xxxx tttt 1010 x001 0000"),
    pattern("vmrs", 1, "cccc 1110 1111 0001 tttt 1010 0001 0000"),
    pattern("vldr", 1, "cccc 1101 xx01 BBBB xxxx 101x iiiiiiii"),
    pattern("vldm", 1, "cccc 1100 1x11 BBBB 0xxx 1011 0000 0010"),
    pattern("vld1", 1, "1111 0100 0x10 bbbb 0xxx 0111 xx00 oooo"),
    pattern("ldrex", 1, "cccc 0001 1001 BBBB tttt 1111 1001 1111"),
];

/// T32, 16 bits.
pub const NARROW: &[Pattern] = &[
    pattern("shift", 6, "000xx iiiii mmm ddd"),
    pattern("add, sub three registers", 4, "00011 0x mmm nnn ddd"),
    pattern("add, sub small", 3, "00011 1x iii nnn ddd"),
    pattern("immediate", 6, "001xx ddd iiiiiiii"),
    pattern("data", 12, "010000 xxxx mmm ddd"),
    pattern("high register", 4, "010001 xx d mmmm ddd"),
    pattern("load literal", 1, "01001 ttt iiiiiiii"),
    pattern("load, store by register", 4, "0101 xxx ooo bbb ttt"),
    pattern("load, store", 4, "011xx iiiii bbb ttt"),
    pattern("load, store half", 3, "1000x iiiii bbb ttt"),
    pattern("load, store from sp", 1, "1001x ttt iiiiiiii"),
    pattern("adr, add sp", 2, "1010x ddd iiiiiiii"),
    pattern("adjust sp", 1, "1011 0000 x iiiiiii"),
    pattern("extend", 2, "1011 0010 xx mmm ddd"),
    pattern("push, pop", 2, "1011 x10 0 llllllll"),
    pattern("push lr", 1, "1011 010 1 llllllll"),
    pattern("reverse", 2, "1011 1010 xx mmm ddd"),
    pattern("hint", 1, "1011 1111 0xx0 0000"),
    pattern("load, store multiple", 3, "1100 x BBB llllllll"),
];

/// T32, 32 bits.
pub const WIDE: &[Pattern] = &[
    pattern("data shifted", 12, "1110 101 xxxx x nnnn 0 iii dddd ii xx mmmm"),
    pattern("compare shifted", 4, "1110 101 xxxx 1 nnnn 0 iii 1111 ii xx mmmm"),
    pattern("move shifted", 6, "1110 101 001x x 1111 0 iii dddd ii xx mmmm"),
    pattern("pkh", 2, "1110 101 0110 0 nnnn 0 iii dddd ii x0 mmmm"),
    pattern("stack pointer and register", 2, "1110 101 1x0x x 1101 0 iii dddd ii xx mmmm"),
    pattern("data immediate", 10, "11110 i 0 xxxx x nnnn 0 iii dddd iiiiiiii"),
    pattern("compare immediate", 4, "11110 i 0 xxxx 1 nnnn 0 iii 1111 iiiiiiii"),
    pattern("move immediate", 4, "11110 i 0 001x x 1111 0 iii dddd iiiiiiii"),
    pattern("stack pointer and immediate", 2, "11110 i x 1x0x x 1101 0 iii dddd iiiiiiii"),
    pattern("addw, subw", 3, "11110 i 1 0000 0 nnnn 0 iii dddd iiiiiiii"),
    pattern("addw, subw", 3, "11110 i 1 0101 0 nnnn 0 iii dddd iiiiiiii"),
    pattern("adr", 2, "11110 i 1 0000 0 1111 0 iii dddd iiiiiiii"),
    pattern("adr", 2, "11110 i 1 0101 0 1111 0 iii dddd iiiiiiii"),
    pattern("movw, movt", 4, "11110 i 1 0x10 0 iiii 0 iii dddd iiiiiiii"),
    pattern("saturate", 5, "11110 0 1 1x0x 0 nnnn 0 iii dddd ii 0 iiiii"),
    pattern("saturate 16", 2, "11110 0 1 1x01 0 nnnn 0 000 dddd 00 0 0 iiii"),
    pattern("bit field extract", 4, "11110 0 1 1x10 0 nnnn 0 iii dddd ii 0 iiiii"),
    pattern("bfi", 3, "11110 0 1 1011 0 nnnn 0 iii dddd ii 0 iiiii"),
    pattern("bfc", 2, "11110 0 1 1011 0 1111 0 iii dddd ii 0 iiiii"),
    pattern("shift by register", 5, "11111010 0xx x nnnn 1111 dddd 0000 mmmm"),
    pattern("extend and add", 3, "11111010 0xxx nnnn 1111 dddd 10xx mmmm"),
    pattern("extend", 3, "11111010 0xxx 1111 1111 dddd 10xx mmmm"),
    pattern("parallel", 8, "11111010 1xxx nnnn 1111 dddd 0xxx mmmm"),
    pattern("saturating", 3, "11111010 1000 nnnn 1111 dddd 10xx mmmm"),
    pattern("reverse, clz", 4, "11111010 10x1 mmmm 1111 dddd 10xx mmmm"),
    pattern("sel", 3, "11111010 1010 nnnn 1111 dddd 1000 mmmm"),
    pattern("mul", 1, "11111011 0000 nnnn 1111 dddd 0000 mmmm"),
    pattern("mla, mls", 2, "11111011 0000 nnnn aaaa dddd 000x mmmm"),
    pattern("multiply", 8, "11111011 0xxx nnnn aaaa dddd 00xx mmmm"),
    pattern("multiply without sum", 3, "11111011 0xxx nnnn 1111 dddd 00xx mmmm"),
    pattern("long multiply", 4, "11111011 1xx0 nnnn DDDD dddd 0000 mmmm"),
    pattern("umaal", 1, "11111011 1110 nnnn DDDD dddd 0110 mmmm"),
    pattern("long half multiply", 2, "11111011 1100 nnnn DDDD dddd 10xx mmmm"),
    pattern("long dual multiply", 2, "11111011 110x nnnn DDDD dddd 110x mmmm"),
    pattern("divide", 2, "11111011 10x1 nnnn 1111 dddd 1111 mmmm"),
    pattern("store", 3, "1111 1000 1xx0 bbbb tttt iiiiiiiiiiii"),
    pattern("load", 4, "1111 100x 1xx1 bbbb tttt iiiiiiiiiiii"),
    pattern("store indexed", 4, "1111 1000 0xx0 bbbb tttt 1xxx iiiiiiii"),
    pattern("load indexed", 5, "1111 100x 0xx1 bbbb tttt 1xxx iiiiiiii"),
    pattern("store by register", 3, "1111 1000 0xx0 bbbb tttt 000000 xx oooo"),
    pattern("load by register", 4, "1111 100x 0xx1 bbbb tttt 000000 xx oooo"),
    pattern("load literal", 2, "1111 100x xxx1 1111 tttt 0000 iiiiiiii"),
    pattern("load, store dual", 5, "1110 100x x1xx BBBB tttt TTTT iiiiiiii"),
    pattern("load dual literal", 1, "1110 1001 x101 1111 tttt TTTT 00iiiiii"),
    pattern("load, store multiple", 6, "1110 1000 10xx BBBB llllllllllllllll"),
    pattern("load, store multiple", 6, "1110 1001 00xx BBBB llllllllllllllll"),
    pattern("hint", 1, "1111 0011 1010 1111 1000 0000 xxxx 0xx0"),
    pattern("preload", 1, "1111 100x 10x1 bbbb 1111 iiiiiiiiiiii"),
    pattern("barrier", 1, "1111 0011 1011 1111 1000 1111 01xx 1111"),
    pattern("mrs", 1, "1111 0011 1110 1111 1000 dddd 0000 0000"),
    pattern("msr flags", 1, "1111 0011 1000 mmmm 1000 xx00 0000 0000"),
    pattern("mrc", 1, "1110 1110 0001 0000 tttt 1111 0xx1 000x"),
    pattern("vfp", 2, "1110 1110 xxxx xxxx xxxx 101x xxx0 xxxx"),
    pattern("neon", 1, "111x 1111 xxxx xxxx xxxx xxxx xxxx xxxx"),
    pattern("vmov", 1, "1110 1110 000x xxxx tttt 1010 x001 0000"),
    pattern("vmrs", 1, "1110 1110 1111 0001 tttt 1010 0001 0000"),
    pattern("vldr", 1, "1110 1101 xx01 BBBB xxxx 101x iiiiiiii"),
    pattern("vldm", 1, "1110 1100 1x11 BBBB 0xxx 1011 0000 0010"),
    pattern("vld1", 1, "1111 1001 0x10 bbbb 0xxx 0111 xx00 oooo"),
    pattern("ldrex", 1, "1110 1000 0101 BBBB tttt 1111 iiiiiiii"),
];
