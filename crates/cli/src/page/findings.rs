//! What was found: a card for each verdict, with all that it rests on, and the advisories.

use overdue_core::{Cause, Verdict};
use overdue_why::{Report, judge::Finding};

use super::html::{Element, el};
use crate::{render::why::nothing, screen::Ink};

/// Findings, evidence and effects that are shown of each kind.
const SHOWN: usize = 32;

/// The verdicts, or that there is none.
pub(super) fn verdicts(report: &Report) -> Element {
    let section = el("section").with("aria-label", "Verdicts");
    if report.verdicts.is_empty() {
        let (ink, text) = nothing(report);
        let class = match ink {
            Ink::Green => "card fine",
            Ink::Red => "card verdict",
            _ => "card also",
        };
        return section.child(el("div").class(class).child(el("h2").prose(&sentence(&text))));
    }
    section.children(report.verdicts.iter().take(SHOWN).map(card))
}

/// As one: with a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| format!("{}{}.", first.to_uppercase(), letters.as_str())).unwrap_or_default()
}

/// What was noticed and is no verdict.
pub(super) fn advisories(report: &Report) -> Option<Element> {
    let card = |finding: &Finding| {
        let verdict = &finding.verdict;
        el("article")
            .class("card also")
            .child(el("h3").child(el("span").class("kind").text("also")).child(id(verdict.cause)))
            .child(el("p").prose(&verdict.summary))
            .child(el("p").class("fix").child(el("b").text("Fix: ")).prose(&verdict.fix))
            .children(evidence(verdict))
            .children(effects(finding))
    };
    let cards = report.advisories.iter().take(SHOWN).map(card);
    (!report.advisories.is_empty())
        .then(|| el("section").with("aria-label", "Advisories").child(el("h2").text("Noticed besides")).children(cards))
}

fn card(finding: &Finding) -> Element {
    let verdict = &finding.verdict;
    let title = el("h2").child(el("span").class("kind").text("verdict")).child(id(verdict.cause));
    let percent = verdict.share * 100.0;
    let share = (verdict.share >= 0.005).then(|| {
        let text = format!("{percent:.0} % of {}", finding.share_of.as_str());
        let bar = el("svg").class("share").with("aria-hidden", "true").children([
            el("rect").class("track").with("width", "100%").with("height", "100%"),
            el("rect").class("part").with("width", format!("{percent:.1}%")).with("height", "100%"),
        ]);
        el("span").class("badge").child(bar).text(text)
    });
    let confidence = format!("{} confidence", verdict.confidence);
    let badges = el("p")
        .class("badges")
        .child(el("span").class(format!("badge {}", verdict.confidence)).text(confidence))
        .children(share);
    el("article")
        .class("card verdict")
        .child(title)
        .child(badges)
        .child(el("p").class("summary").prose(&verdict.summary))
        .child(fix(verdict))
        .children(evidence(verdict))
        .children(rejected(verdict))
        .children(effects(finding))
        .child(more(verdict.cause))
}

fn id(cause: Cause) -> Element {
    el("span").class("cause").text(cause.id())
}

/// What to do. A verdict that knows no better than the catalogue gives all that is there.
fn fix(verdict: &Verdict) -> Element {
    let block = |title: &str| el("div").class("fix").child(el("h3").text(title));
    match verdict.cause.entry().fix {
        all @ [first, _, ..] if verdict.fix == *first => {
            let points = all.iter().map(|point| el("li").prose(point));
            block("Fix, one of").child(el("ul").children(points))
        }
        _ => block("Fix").child(el("p").prose(&verdict.fix)),
    }
}

fn evidence(verdict: &Verdict) -> Option<Element> {
    let rows = verdict.evidence.iter().take(SHOWN).map(|evidence| {
        let source = el("th").with("scope", "row").text(evidence.source.as_str());
        el("tr").child(source).child(el("td").prose(&evidence.text))
    });
    (!verdict.evidence.is_empty()).then(|| {
        let table = el("table").class("evidence").child(el("tbody").children(rows));
        el("div").child(el("h3").text("Evidence")).child(table)
    })
}

fn rejected(verdict: &Verdict) -> Option<Element> {
    let lines = verdict.rejected.iter().take(SHOWN).map(|rejected| {
        el("p").child(el("b").class("cause").text(rejected.cause.id())).text(": ").prose(&rejected.why)
    });
    (!verdict.rejected.is_empty()).then(|| el("div").child(el("h3").text("Rejected")).children(lines))
}

fn effects(finding: &Finding) -> Option<Element> {
    (!finding.effects.is_empty())
        .then(|| el("div").child(el("h3").text("What follows from it")).child(effect_list(&finding.effects)))
}

fn effect_list(effects: &[Finding]) -> Element {
    let item = |effect: &Finding| {
        let below = (!effect.effects.is_empty()).then(|| effect_list(&effect.effects));
        el("li")
            .child(el("b").class("cause").text(effect.verdict.cause.id()))
            .text(": ")
            .prose(&effect.verdict.summary)
            .children(below)
    };
    el("ul").class("effects").children(effects.iter().take(SHOWN).map(item))
}

/// What the catalogue says, for a reader who has nothing but the page.
fn more(cause: Cause) -> Element {
    let entry = cause.entry();
    let commands = entry.confirm.iter().map(|command| el("li").prose(command));
    el("details")
        .child(el("summary").text(format!("What {} means, and how to confirm it", entry.id)))
        .child(el("p").prose(entry.meaning))
        .child(el("p").child(el("b").text("What looks like it: ")).prose(entry.look_alikes))
        .child(el("p").child(el("b").text("Confirm by hand:")))
        .child(el("ul").children(commands))
}
