//! Names of devices and mnemonics, numbered as in the trace: in the order in which they were met, on whatever thread.

use std::sync::{Arc, Mutex, MutexGuard};

/// See the [module](self).
#[derive(Clone)]
pub struct Names(Arc<Mutex<Vec<String>>>);

impl Names {
    /// Only the name for what is not known, which is `UNKNOWN_DEVICE` in a trace.
    pub fn new() -> Self {
        Names(Arc::new(Mutex::new(vec!["unknown".to_owned()])))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        match self.0.lock() {
            Ok(names) => names,
            // A thread that panicked has at most added a name.
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// The number of a name.
    pub fn number(&self, name: &str) -> u32 {
        let mut names = self.lock();
        let found = names.iter().position(|known| known == name);
        found.unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        }) as u32
    }

    /// Calls with each name from a number on, in order.
    pub fn each_from(&self, first: usize, call: impl FnMut(&str)) {
        self.lock().iter().skip(first).map(String::as_str).for_each(call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_have_one_number() {
        let names = Names::new();
        assert_eq!(["mrc", "pl011", "mrc", "unknown"].map(|name| names.number(name)), [1, 2, 1, 0]);
        let mut all = Vec::new();
        names.each_from(1, |name| all.push(name.to_owned()));
        assert_eq!(all, ["mrc", "pl011"]);
    }
}
