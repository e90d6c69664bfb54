use serde::{Deserialize, Serialize};

/// Lookups of names by the C library (`getaddrinfo`), seen by probes in the process. Only when somebody asked for those.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lookups {
    /// The longest first. Bounded.
    pub lookups: Vec<Lookup>,
    /// All that ended in the window.
    pub ended: u64,
    /// Lookups that were lost because a table was full.
    pub lost: u64,
}

/// One lookup.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lookup {
    /// The name.
    pub name: String,
    /// The thread.
    pub tid: u32,
    /// When it began, in microseconds since the watch began; 0 when that was before.
    pub at_us: u64,
    /// How long it took, or has taken. Of one that began before the window, all of it.
    pub took_us: u64,
    /// What it ended with: 0, or one of the library's negative errors (`EAI_NONAME` is -2, `EAI_AGAIN` -3). `None` while
    /// it goes on.
    pub result: Option<i32>,
}
