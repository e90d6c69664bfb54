//! A report of a process as one page: no file beside it, nothing from the network, and nothing that it shows can become
//! a part of it. It is made of elements (`html`), so all text is escaped; and its policy lets the browser run and apply
//! nothing but the one script and the one style that are in it, by their hashes.

mod about;
mod chart;
mod connections;
mod findings;
mod flame;
mod html;
mod states;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use overdue_why::{Observation, Report};
use ring::digest::{SHA256, digest};

use self::html::{Element, el};

/// No page is larger.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Up to here elements are begun. One has attributes, and its parents want to be closed.
const CONTENT_BYTES: usize = MAX_BYTES - (1 << 20);

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// The page.
pub(crate) fn html(report: &Report, seen: &Observation) -> String {
    let (page, whole) = document(report, seen, true).render(CONTENT_BYTES);
    let page = if whole { page } else { document(report, seen, false).render(CONTENT_BYTES).0 };
    format!("<!DOCTYPE html>\n{page}\n")
}

fn document(report: &Report, seen: &Observation, whole: bool) -> Element {
    let name = about::name(&report.process);
    let cause = match (report.cause, report.process.ended) {
        (Some(cause), _) => cause.id().to_owned(),
        (None, Some(ended)) if !ended.is_well() => ended.to_string(),
        (None, _) => "nothing wrong was found".to_owned(),
    };
    let head = el("head")
        .child(el("meta").with("charset", "utf-8"))
        .child(el("meta").with("http-equiv", "Content-Security-Policy").with("content", policy()))
        .child(el("meta").with("name", "viewport").with("content", "width=device-width, initial-scale=1"))
        .child(el("meta").with("name", "color-scheme").with("content", "light dark"))
        .child(el("meta").with("name", "referrer").with("content", "no-referrer"))
        .child(el("title").text(format!("{cause}: {name} (pid {})", report.process.pid)))
        .child(el("style").own(STYLE))
        // Before all that there may be too much of.
        .child(el("script").own(SCRIPT));
    let cut = el("p").class("card also").text(format!(
        "There was too much to show: what comes last is left out, so that this page is no larger than {} MiB.",
        MAX_BYTES >> 20
    ));
    let main = el("main")
        .children((!whole).then_some(cut))
        .child(findings::verdicts(report))
        .children(findings::advisories(report))
        .children(connections::section(report))
        .children(states::section(seen))
        .children(flame::sections(seen))
        .children(about::not_visible(report))
        .child(about::watching(report, seen));
    let body = el("body").child(patterns()).child(about::headline(report)).child(main);
    el("html").with("lang", "en").child(head).child(body)
}

/// What the browser may do: nothing but this style and this script.
fn policy() -> String {
    let hash = |code: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, code.as_bytes())));
    format!(
        "default-src 'none'; style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

/// What drawings refer to.
fn patterns() -> Element {
    let line = el("path").class("hatch").with("d", "M-2 2L2 -2M0 8L8 0M6 10L10 6");
    let pattern = el("pattern")
        .with("id", "inferred")
        .with("width", "8")
        .with("height", "8")
        .with("patternUnits", "userSpaceOnUse")
        .child(line);
    el("svg").class("patterns").with("width", "0").with("height", "0").with("aria-hidden", "true").child(pattern)
}
