//! A tree of elements, and the only way from it to text. So every element is closed, every text is escaped and harmless,
//! and the whole is no larger than it may be, whatever the texts are.

use std::fmt::Display;

use crate::screen::harmless;

/// Characters of one text that are shown, and of one attribute.
const TEXT_CHARS: usize = 2_000;
const ATTRIBUTE_CHARS: usize = 16_000;
/// Elements that have no content and no end.
const VOID: [&str; 3] = ["meta", "br", "wbr"];

/// An element with what is in it.
#[derive(Debug)]
pub(super) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    children: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Element(Element),
    /// From anywhere.
    Text(String),
    /// A part of this program.
    Own(&'static str),
}

/// An empty element.
pub(super) const fn el(name: &'static str) -> Element {
    Element { name, attributes: Vec::new(), children: Vec::new() }
}

/// Rows under these heads, which are shown when asked for.
pub(super) fn folded_table(title: &'static str, heads: &[&str], rows: impl Iterator<Item = Element>) -> Element {
    let heads = heads.iter().map(|text| el("th").with("scope", "col").text(*text));
    let table = el("table").child(el("thead").child(el("tr").children(heads))).child(el("tbody").children(rows));
    let scroll = el("div").class("scroll").with("tabindex", "0").with("role", "region").with("aria-label", title);
    el("details").class("numbers").child(el("summary").text(title)).child(scroll.child(table))
}

impl Element {
    /// With this attribute.
    pub(super) fn with(mut self, attribute: &'static str, value: impl Display) -> Self {
        self.attributes.push((attribute, value.to_string()));
        self
    }

    /// With this class.
    pub(super) fn class(self, class: impl Display) -> Self {
        self.with("class", class)
    }

    /// With this text behind what is there.
    pub(super) fn text(mut self, text: impl Into<String>) -> Self {
        self.children.push(Node::Text(text.into()));
        self
    }

    /// With this text, in which what stands in backticks is code.
    pub(super) fn prose(mut self, text: &str) -> Self {
        // A lone backtick is a peer's, and encloses nothing.
        if !text.matches('`').count().is_multiple_of(2) {
            return self.text(text);
        }
        for (place, part) in text.split('`').enumerate().filter(|(_, part)| !part.is_empty()) {
            self = if place % 2 == 1 { self.child(el("code").text(part)) } else { self.text(part) };
        }
        self
    }

    /// With this element behind what is there.
    pub(super) fn child(mut self, child: Element) -> Self {
        self.children.push(Node::Element(child));
        self
    }

    /// With these elements behind what is there.
    pub(super) fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.children.extend(children.into_iter().map(Node::Element));
        self
    }

    /// With a style or a script of this program.
    pub(super) fn own(mut self, code: &'static str) -> Self {
        self.children.push(Node::Own(code));
        self
    }

    /// As text of some `at_most` bytes: what comes after so many is left out, and `false` says so.
    pub(super) fn render(&self, at_most: usize) -> (String, bool) {
        let mut page = Page { out: String::new(), at_most, whole: true };
        page.element(self);
        (page.out, page.whole)
    }
}

struct Page {
    out: String,
    at_most: usize,
    whole: bool,
}

impl Page {
    fn element(&mut self, element: &Element) {
        if self.out.len() > self.at_most {
            self.whole = false;
            return;
        }
        self.out.push('<');
        self.out.push_str(element.name);
        for (name, value) in &element.attributes {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("=\"");
            self.escape(value, ATTRIBUTE_CHARS);
            self.out.push('"');
        }
        if VOID.contains(&element.name) {
            self.out.push_str("/>");
            return;
        }
        self.out.push('>');
        for child in &element.children {
            match child {
                Node::Element(child) => self.element(child),
                Node::Text(text) => self.escape(text, TEXT_CHARS),
                Node::Own(code) => self.out.push_str(code),
            }
        }
        self.out.push_str("</");
        self.out.push_str(element.name);
        self.out.push('>');
    }

    fn escape(&mut self, text: &str, at_most: usize) {
        let cut = text.char_indices().nth(at_most).map(|(at, _)| at);
        for c in harmless(cut.and_then(|at| text.get(..at)).unwrap_or(text)).chars() {
            match c {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '"' => self.out.push_str("&quot;"),
                '\'' => self.out.push_str("&#39;"),
                c => self.out.push(c),
            }
        }
        if cut.is_some() {
            self.out.push('…');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_text() {
        let element = el("p").with("title", "\" onload='x()'><b>").text("</p><script>\u{202e}\u{1b}[2J&");
        assert_eq!(
            element.render(1000).0,
            "<p title=\"&quot; onload=&#39;x()&#39;&gt;&lt;b&gt;\">&lt;/p&gt;&lt;script&gt;??[2J&amp;</p>"
        );
    }

    #[test]
    fn what_is_in_backticks_is_code() {
        assert_eq!(el("p").prose("run `ss -ltn` <now>").render(99).0, "<p>run <code>ss -ltn</code> &lt;now&gt;</p>");
        assert_eq!(el("p").prose("a ` b").render(99).0, "<p>a ` b</p>");
    }

    #[test]
    fn too_much_is_left_out_and_all_is_closed() {
        let many = (0..100_000).map(|at| el("li").child(el("b").text(at.to_string())));
        let (text, whole) = el("ul").children(many).render(10_000);
        assert!(!whole && text.len() < 10_100, "{}", text.len());
        assert_eq!(text.matches("<li>").count(), text.matches("</b></li>").count());
        assert!(text.ends_with("</ul>"));
        let (long, _) = el("p").text("'".repeat(1_000_000)).render(10);
        assert_eq!(long.len(), "<p></p>".len() + TEXT_CHARS * "&#39;".len() + "…".len());
    }
}
