//! What the reader's screen can do, and text laid out for it.

use std::{env, io::IsTerminal, os::fd::AsFd};

/// Prose is not set wider than this, however wide the terminal is.
const PROSE_COLUMNS: usize = 100;

/// Without a terminal and without `COLUMNS`.
const DEFAULT_COLUMNS: usize = 80;

/// A place to write for somebody: how wide it is, and whether it shows colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Screen {
    /// In characters.
    pub(crate) columns: usize,
    styled: bool,
}

/// How a text stands out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ink {
    /// Headings, ids, commands.
    Bold,
    /// What may be skipped.
    Dim,
    /// What went wrong.
    Red,
    /// What is in doubt.
    Yellow,
    /// What is as it should be.
    Green,
}

impl Screen {
    /// The screen behind a stream. No styles unless it is a terminal that has them and `NO_COLOR` is not set.
    pub(crate) fn of(stream: &(impl AsFd + IsTerminal)) -> Self {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_terminal = stream.is_terminal();
        let styled = is_terminal && !is_set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let of_terminal = || {
            let size = is_terminal.then(|| rustix::termios::tcgetwinsize(stream).ok())??;
            Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
        };
        let of_environment = || env::var("COLUMNS").ok()?.parse().ok();
        let columns = of_terminal().or_else(of_environment).unwrap_or(DEFAULT_COLUMNS);
        Self { columns: columns.clamp(40, 200), styled }
    }

    /// Plain text for a screen that is drawn, whatever its width.
    pub(crate) const fn text(columns: usize) -> Self {
        Self { columns, styled: false }
    }

    /// Whether there are styles.
    pub(crate) const fn is_styled(self) -> bool {
        self.styled
    }

    /// Plain text of this width.
    #[cfg(test)]
    pub(crate) const fn plain(columns: usize) -> Self {
        Self { columns, styled: false }
    }

    /// Plain text of this width, with styles.
    #[cfg(test)]
    pub(crate) const fn styled(columns: usize) -> Self {
        Self { columns, styled: true }
    }

    /// The text in this ink, where there are styles.
    pub(crate) fn ink(self, ink: Ink, text: &str) -> String {
        if !self.styled || text.is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Red => "1;31",
            Ink::Yellow => "33",
            Ink::Green => "32",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// `first`, which may be in ink, and the text behind it, in lines no wider than the screen; what follows the first
    /// line stands under the text. What is in backticks stays on one line, and is bold without its backticks where there are styles.
    pub(crate) fn hanging(self, first: &str, text: &str) -> String {
        let indent = visible(first);
        let columns = self.columns.min(PROSE_COLUMNS);
        let mut out = first.to_owned();
        let mut column = indent;
        for word in words(text) {
            let quoted = word.matches('`').count();
            let length = word.chars().count() - if self.styled { quoted } else { 0 };
            if column > indent {
                if column + 1 + length > columns {
                    out.push('\n');
                    out.extend(std::iter::repeat_n(' ', indent));
                    column = indent;
                } else {
                    out.push(' ');
                    column += 1;
                }
            }
            column += length;
            out.push_str(&self.quotes(&word));
        }
        out.push('\n');
        out
    }

    /// Backticks as bold, where there are styles.
    fn quotes(self, word: &str) -> String {
        if !self.styled {
            return word.to_owned();
        }
        let ink =
            |(place, part): (usize, &str)| if place % 2 == 1 { self.ink(Ink::Bold, part) } else { part.to_owned() };
        word.split('`').enumerate().map(ink).collect()
    }
}

/// How many columns a text takes that may be in ink.
fn visible(text: &str) -> usize {
    let mut parts = text.split('\x1b');
    let plain = parts.next().map_or(0, |part| part.chars().count());
    plain + parts.filter_map(|part| part.split_once('m')).map(|(_, text)| text.chars().count()).sum::<usize>()
}

/// The words of a text; what is in backticks is one word. Texts may quote what a peer said, so what
/// could steer the terminal is shown as `?`.
fn words(text: &str) -> Vec<String> {
    // A lone backtick is a peer's, and encloses nothing.
    let quotes = text.matches('`').count().is_multiple_of(2);
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        quoted ^= quotes && c == '`';
        match words.last_mut() {
            _ if c.is_whitespace() && !quoted => words.push(String::new()),
            Some(word) => word.push(safe(c)),
            None => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// A text from elsewhere on one line: what could steer the terminal is shown as `?`.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(safe).collect()
}

/// `?` for control characters, and for what is not seen and turns the text around it, breaks its line or hides in it.
fn safe(c: char) -> char {
    match c {
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => '?',
        c if c.is_control() => '?',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_hang() {
        let text = Screen::plain(40).hanging("  dns  ", "two queries were sent to 127.0.0.1:53 and nothing came");
        assert_eq!(text, "  dns  two queries were sent to\n       127.0.0.1:53 and nothing came\n");
    }

    #[test]
    fn a_command_is_never_broken() {
        let command = "`tcpdump -ni any '(host HOST and tcp port PORT) or icmp'`";
        let text = Screen::plain(40).hanging("", &format!("run {command}, here and there"));
        assert!(text.contains(&format!("{command},")), "{text}");
        let styled = Screen::styled(40).hanging("", "run `ss -ltn` now");
        assert_eq!(styled, "run \u{1b}[1mss -ltn\u{1b}[0m now\n");
    }

    #[test]
    fn a_peer_cannot_steer_the_terminal() {
        assert_eq!(Screen::plain(40).hanging("", "said \u{1b}[2J\u{7}"), "said ?[2J?\n");
        assert_eq!(harmless("a\r\nb\u{9b}c"), "a??b?c");
        for c in ['\u{200b}', '\u{200f}', '\u{2028}', '\u{202e}', '\u{2060}', '\u{2069}', '\u{feff}'] {
            assert_eq!(harmless(&format!("a{c}b")), "a?b");
            assert!(!Screen::plain(40).hanging("", &format!("a{c}b")).contains(c));
        }
        assert_eq!(harmless("gr\u{fc}n \u{2010} \u{202f} \u{5d0}"), "gr\u{fc}n \u{2010} \u{202f} \u{5d0}");
    }

    #[test]
    fn plain_text_has_no_styles() {
        assert_eq!(Screen::plain(80).ink(Ink::Red, "x"), "x");
        assert_eq!(Screen::styled(80).ink(Ink::Red, "x"), "\u{1b}[1;31mx\u{1b}[0m");
    }
}
