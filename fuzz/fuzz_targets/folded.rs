//! Collapsed stacks: what is read is written and read again as it was.
#![no_main]

use overdue_why::flame::{Folded, changes};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(folded) = Folded::parse(text) {
        assert_eq!(Folded::parse(&folded.text()).as_ref(), Ok(&folded));
        assert!(changes(&folded, &folded).is_empty());
    }
});
