//! Registers as gdb knows them.

/// One register of a target description; it has 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterDescription {
    /// Its name in gdb's target features.
    pub name: &'static str,
    /// gdb's feature that it belongs to, for example `org.gnu.gdb.arm.core`.
    pub feature: &'static str,
    /// gdb's register number.
    pub number: usize,
    /// gdb's type: `int`, `data_ptr`, `code_ptr` or `ieee_single`.
    pub kind: &'static str,
}
