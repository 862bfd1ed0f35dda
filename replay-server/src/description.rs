//! The guest's registers as a client sees them: the target description (`target.xml`) and the layout of register
//! values, both derived from the [`MachineDescription`].
//!
//! The position in the recording is one register more, `ktpos`, so that gdb can use time in conditions and displays.

use std::fmt::Write;

use ktrace_format::Position;
use ktrace_timeline::MachineDescription;

/// Name of the register that holds the position.
pub const POSITION_REGISTER: &str = "ktpos";
/// Target feature that the position register belongs to.
pub const POSITION_FEATURE: &str = "org.ktreplay.time";

/// Where a register's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The core register of this index in the machine description.
    Core(usize),
    /// The position in the recording.
    Position,
}

/// The value of one register, in the guest's byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterValue {
    /// gdb's number of the register.
    pub number: usize,
    /// Width in bytes.
    pub width: usize,
    /// The value; `None` if the trace does not prove it.
    pub bytes: Option<Vec<u8>>,
}

impl RegisterValue {
    /// The value as the protocol's text: hexadecimal, or `xx` for each unknown byte.
    pub fn text(&self) -> String {
        match &self.bytes {
            Some(bytes) => crate::framing::hexadecimal(bytes),
            None => "xx".repeat(self.width),
        }
    }
}

/// How the registers of one guest are laid out for clients.
#[derive(Clone, Debug)]
pub struct RegisterLayout {
    /// In ascending order of number, which is the order of the `g` packet.
    registers: Vec<(usize, Source)>,
    big_endian: bool,
}

impl RegisterLayout {
    /// The layout of a machine's registers, with the position register after them all.
    pub fn new(machine: &MachineDescription) -> Self {
        let mut registers: Vec<_> = machine
            .registers
            .iter()
            .enumerate()
            .map(|(index, register)| (register.number, Source::Core(index)))
            .collect();
        registers.push((position_register_number(machine), Source::Position));
        registers.sort_by_key(|(number, _)| *number);
        Self { registers, big_endian: machine.big_endian }
    }

    /// The value of the register with this number, zero-extended; `None` if it is not known or there is none.
    /// `core` tells core registers in the order of the machine description.
    pub fn value(
        &self,
        number: usize,
        core: impl FnOnce(usize) -> Option<u32>,
        position: Position,
    ) -> Option<u64> {
        let at = self.registers.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        match self.registers.get(at)?.1 {
            Source::Core(index) => core(index).map(u64::from),
            Source::Position => Some(position.0),
        }
    }

    /// Whether the guest's data are big-endian.
    pub fn big_endian(&self) -> bool {
        self.big_endian
    }

    /// The values of all registers in the order of the `g` packet. `core` is in the order of the machine
    /// description; a register that it lacks is unknown.
    pub fn values(&self, core: &[Option<u32>], position: Position) -> Vec<RegisterValue> {
        self.registers
            .iter()
            .map(|&(number, source)| match source {
                Source::Core(index) => RegisterValue {
                    number,
                    width: 4,
                    bytes: core.get(index).copied().flatten().map(|value| {
                        if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() }.to_vec()
                    }),
                },
                Source::Position => RegisterValue {
                    number,
                    width: 8,
                    bytes: Some(
                        if self.big_endian { position.0.to_be_bytes() } else { position.0.to_le_bytes() }
                            .to_vec(),
                    ),
                },
            })
            .collect()
    }
}

/// The highest number, so that the position register comes last in `g` and leaves the core registers where clients
/// that know the architecture expect them.
fn position_register_number(machine: &MachineDescription) -> usize {
    machine.registers.iter().map(|register| register.number + 1).max().unwrap_or(0)
}

/// The target description. `osabi none` keeps gdb from stepping MIPS with breakpoints of its own; `regnum` comes last
/// in each `reg`, since Binary Ninja overwrites it otherwise, and `endian` is there for it too (gdb skips it).
pub fn target_xml(machine: &MachineDescription) -> String {
    let mut xml = String::from("<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n");
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String can't fail.
        let _ = writeln!(xml, "{text}");
    };
    line(format_args!("<target version=\"1.0\">"));
    line(format_args!("  <architecture>{}</architecture>", machine.gdb_architecture));
    line(format_args!("  <osabi>none</osabi>"));
    line(format_args!("  <endian>{}</endian>", if machine.big_endian { "big" } else { "little" }));
    let mut features: Vec<&str> = Vec::new();
    for register in machine.registers {
        if !features.contains(&register.feature) {
            features.push(register.feature);
        }
    }
    for feature in features {
        line(format_args!("  <feature name=\"{feature}\">"));
        for register in machine.registers.iter().filter(|register| register.feature == feature) {
            line(format_args!(
                "    <reg name=\"{}\" bitsize=\"32\" type=\"{}\" regnum=\"{}\"/>",
                register.name, register.kind, register.number
            ));
        }
        line(format_args!("  </feature>"));
    }
    line(format_args!("  <feature name=\"{POSITION_FEATURE}\">"));
    line(format_args!(
        "    <reg name=\"{POSITION_REGISTER}\" bitsize=\"64\" type=\"uint64\" save-restore=\"no\" regnum=\"{}\"/>",
        position_register_number(machine)
    ));
    line(format_args!("  </feature>"));
    line(format_args!("</target>"));
    xml
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktrace_timeline::replay::RegisterDescription;

    const CPU: &str = "org.gnu.gdb.mips.cpu";
    const CP0: &str = "org.gnu.gdb.mips.cp0";
    const REGISTERS: &[RegisterDescription] = &[
        RegisterDescription { name: "r0", feature: CPU, number: 0, kind: "int" },
        RegisterDescription { name: "lo", feature: CPU, number: 33, kind: "int" },
        RegisterDescription { name: "pc", feature: CPU, number: 37, kind: "code_ptr" },
        RegisterDescription { name: "status", feature: CP0, number: 32, kind: "int" },
    ];

    fn big_endian_machine() -> MachineDescription {
        MachineDescription {
            architecture: "mips",
            big_endian: true,
            gdb_architecture: "mips",
            registers: REGISTERS,
            program_counter: 2,
        }
    }

    #[test]
    fn values_go_by_number_in_the_guests_byte_order() {
        let layout = RegisterLayout::new(&big_endian_machine());
        let values = layout.values(&[Some(1), Some(2), None, Some(0x80000004)], Position(0x0102_0304_0506));
        let text: Vec<_> = values.iter().map(|value| (value.number, value.text())).collect();
        assert_eq!(
            text,
            [
                (0, "00000001".to_owned()),
                (32, "80000004".to_owned()),
                (33, "00000002".to_owned()),
                (37, "xxxxxxxx".to_owned()),
                (38, "0000010203040506".to_owned()),
            ]
        );
    }

    #[test]
    fn one_value_is_found_by_its_number() {
        let layout = RegisterLayout::new(&big_endian_machine());
        let core = [Some(1), Some(2), None, Some(0x8000_0004)];
        let values = [0, 32, 33, 37, 38, 1, 39]
            .map(|number| layout.value(number, |index| core.get(index).copied().flatten(), Position(7)));
        assert_eq!(values, [Some(1), Some(0x8000_0004), Some(2), None, Some(7), None, None]);
    }

    #[test]
    fn the_description_groups_registers_and_numbers_each_last() {
        let xml = target_xml(&big_endian_machine());
        assert_eq!(xml.matches("<feature name=").count(), 3);
        assert_eq!(xml.matches("<reg ").count(), xml.matches("\"/>").count());
        for line in xml.lines().filter(|line| line.contains("<reg ")) {
            let (_, after) = line.split_once("regnum=").expect("every register has its number");
            assert!(!after.contains('='), "{line}: regnum is the last attribute");
        }
        assert!(
            xml.contains("name=\"ktpos\" bitsize=\"64\" type=\"uint64\" save-restore=\"no\" regnum=\"38\"")
        );
        assert!(xml.contains("<osabi>none</osabi>"));
    }
}
