use serde::{Deserialize, Serialize};

/// A user stack, the innermost frame first.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Stack {
    /// Its frames.
    pub frames: Vec<Frame>,
    /// Why it ends before its beginning, where it does: a binary without frame pointers, say.
    pub cut: Option<String>,
}

/// One function on a stack.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Frame {
    /// Its name; `None` where the binary does not tell.
    pub function: Option<String>,
    /// The line, as `file:line`, where debug information has it.
    pub at: Option<String>,
    /// The file the code was loaded from, and the offset in it.
    pub module: Option<String>,
}

impl Stack {
    /// The functions, innermost first; what has no name is left out.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.frames.iter().filter_map(|frame| frame.function.as_deref())
    }
}
