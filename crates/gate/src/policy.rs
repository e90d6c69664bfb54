//! Whether a request whose attempt failed is tried again. Decided here and nowhere else.

/// What is known of an attempt that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tried {
    /// The server has most likely not heard of the request, and another, or the same one by another connection, may.
    pub(crate) unheard: bool,
    /// All of the request is still there to be sent.
    pub(crate) whole: bool,
    /// A server that did hear of it would take no harm from hearing it twice.
    pub(crate) harmless: bool,
}

/// Whether to try again after so many attempts, of which this was the last.
///
/// A connection that was kept may have been closed by its server before the request was there. That is no failure of the
/// request, which gets another connection, once. A server that cannot be connected to has heard of none: another one is
/// asked, once, if there is one that is well.
pub(crate) const fn again(attempts: u32, tried: Tried) -> bool {
    attempts == 1 && tried.unheard && tried.whole && tried.harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_heard_and_does_no_harm_is_tried_again_once() {
        let best = Tried { unheard: true, whole: true, harmless: true };
        assert!(again(1, best) && !again(2, best) && !again(1, Tried::default()));
        for worse in
            [Tried { unheard: false, ..best }, Tried { whole: false, ..best }, Tried { harmless: false, ..best }]
        {
            assert!(!again(1, worse), "{worse:?}");
        }
    }
}
