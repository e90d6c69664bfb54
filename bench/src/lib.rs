//! What the measured programs share. Each is a process of its own, which measures itself and prints one line: a JSON
//! object of numbers, whose names end in their unit.

#[cfg(not(target_os = "linux"))]
compile_error!("the benchmarks read /proc and pin processes: they need Linux");

pub mod heap;
pub mod load;
pub mod process;

use serde_json::{Map, Value};

/// The numbers of one run.
#[derive(Clone, Default, Debug)]
pub struct Numbers(Map<String, Value>);

impl Numbers {
    /// Enters a number.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Prints them, as the only line of standard output.
    pub fn print(self) {
        println!("{}", Value::Object(self.0));
    }
}
