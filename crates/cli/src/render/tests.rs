use std::borrow::Cow;

use overdue_core::{Cause, Confidence, Evidence, NotVisible, Origin, Rejected, SCHEMA, SpanReport, Stage, TlsReport};

use super::*;

fn span(stage: &'static str, start_ms: u64, duration_ms: u64, limit_ms: u64) -> SpanReport {
    SpanReport {
        stage,
        start_us: start_ms * 1000,
        duration_us: duration_ms * 1000,
        outcome: "done",
        limit_us: Some(limit_ms * 1000),
        clipped_by: None,
    }
}

/// A handshake that ended by its limit.
fn silent_tls() -> Report {
    let limit = Limit::stage(Stage::Tls, Duration::from_millis(500)).with_origin(Origin::Flag("--limit".into()));
    Report {
        schema: SCHEMA,
        outcome: "timed-out",
        stage: Some("tls"),
        cause: Some(Cause::TlsPeerSilent),
        limit: Some(LimitReport::from(&limit)),
        elapsed_us: 600_000,
        timeline: vec![
            span("resolve", 0, 40, 5000),
            SpanReport { clipped_by: Some("total"), ..span("connect", 40, 60, 10_000) },
            SpanReport { outcome: "timed-out", ..span("tls", 100, 500, 500) },
        ],
        unaccounted_us: 0,
        connection: Some(ConnectionReport {
            peer: Some("10.0.0.7:443".to_owned()),
            local: Some("10.0.0.2:51234".to_owned()),
            protocol: Some("http/1.1"),
            ..ConnectionReport::default()
        }),
        attempts: Vec::new(),
        branches: Vec::new(),
        verdicts: vec![Verdict {
            cause: Cause::TlsPeerSilent,
            stage: "tls",
            confidence: Confidence::High,
            share: 0.83,
            summary: "10.0.0.7:443 took our ClientHello and said nothing for 500ms".to_owned(),
            fix: Cow::Borrowed("Look at the server with `ss -ltn`."),
            evidence: vec![Evidence::new(overdue_core::Source::TcpInfo, "all our bytes are acknowledged")],
            rejected: vec![Rejected { cause: Cause::PathLost, why: Cow::Borrowed("the way there works") }],
        }],
        advisories: Vec::new(),
        not_visible: vec![NotVisible {
            what: "the peer's side",
            why: "it is not on this host".to_owned(),
            how: "on the peer: ss -tnpi".to_owned(),
        }],
    }
}

#[test]
fn the_verdict_comes_first_and_all_of_it_is_there() {
    let text = report(Screen::plain(80), &silent_tls(), &Limits::default());
    assert_eq!(
        text,
        "\
timed out in tls after 600ms
  limit tls 500ms, set by flag --limit

VERDICT tls-peer-silent in tls, high confidence
  10.0.0.7:443 took our ClientHello and said nothing for 500ms

  stage                                   time  limit
  resolve  █▊                             40ms  5s
  connect   ██▊                           60ms  10s, clipped by total
  tls          ███████████████████████▎  500ms  500ms                  timed out
  total                                  600ms  1m

  connection  10.0.0.7:443 from 10.0.0.2:51234, http/1.1, new

EVIDENCE
  tcp-info      all our bytes are acknowledged

REJECTED path-lost
  the way there works

FIX
  Look at the server with `ss -ltn`.

NOT VISIBLE
  the peer's side: it is not on this host. To see it: on the peer: ss -tnpi

More about it: overdue explain tls-peer-silent
"
    );
}

#[test]
fn no_line_is_wider_than_the_screen() {
    for columns in [60, 80, 120] {
        let text = report(Screen::plain(columns), &silent_tls(), &Limits::default());
        let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
        assert!(widest.chars().count() <= columns, "{columns}: {widest:?}");
    }
}

#[test]
fn a_narrow_waterfall_has_its_notes_below() {
    let mut report = silent_tls();
    report.timeline.push(SpanReport { limit_us: None, ..span("receive", 600, 1, 0) });
    report.unaccounted_us = 60_000;
    for columns in [40, 44, 50] {
        let text = waterfall(Screen::plain(columns), &report, &Limits::default());
        let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
        assert!(widest.chars().count() <= columns, "{columns}: {widest:?}");
    }
    let text = waterfall(Screen::plain(40), &silent_tls(), &Limits::default());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "  stage                      time  limit",
            "  resolve  █                 40ms  5s",
            "  connect   █▌               60ms  10s",
            "    clipped by total",
            "  tls        ████████████▌  500ms  500ms",
            "    timed out",
            "  total                     600ms  1m",
        ]
    );
}

#[test]
fn a_fix_of_the_catalogue_comes_with_the_others() {
    let mut verdict = silent_tls().verdicts.remove(0);
    assert_eq!(fix(Screen::plain(80), &verdict), "\nFIX\n  Look at the server with `ss -ltn`.\n");
    let all = verdict.cause.entry().fix;
    assert!(all.len() > 1);
    verdict.fix = Cow::Borrowed(all[0]);
    let text = fix(Screen::plain(100), &verdict);
    assert!(text.starts_with("\nFIX, one of\n  - "), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("  - ")).count(), all.len(), "{text}");
    for command in all.iter().flat_map(|text| text.split('`').skip(1).step_by(2)) {
        assert!(text.contains(&format!("`{command}`")), "{command} is broken: {text}");
    }
}

#[test]
fn bars_follow_each_other_and_none_leaves_its_field() {
    for columns in [8, 17, 60] {
        for (start, length) in [(0, 0), (0, 1), (0, 600), (599, 1), (600, 0), (300, 300), (123, 456), (700, 900)] {
            let span = SpanReport { start_us: start, duration_us: length, ..span("wait", 0, 0, 1) };
            let (before, bar, after) = Row::of(&span).bar(columns, 600);
            let filled = bar.chars().count();
            assert_eq!(before + filled + after, columns, "{start} {length}");
            assert!(filled > 0, "{start} {length}: it cannot be seen");
        }
    }
}

#[test]
fn time_that_no_stage_explains_has_a_line_of_its_own() {
    let mut report = silent_tls();
    report.unaccounted_us = 5_000;
    assert!(!waterfall(Screen::plain(80), &report, &Limits::none()).contains("unaccounted"));
    report.unaccounted_us = 60_000;
    let text = waterfall(Screen::plain(80), &report, &Limits::none());
    assert!(text.lines().any(|line| line.starts_with("  unaccounted ") && line.ends_with(" 60ms")), "{text}");
}

#[test]
fn the_body_is_shown_with_the_limit_of_its_gaps() {
    let mut report = silent_tls();
    report.timeline.push(SpanReport { limit_us: None, ..span("receive", 600, 1, 0) });
    let text = waterfall(Screen::plain(80), &report, &Limits::default());
    assert!(text.lines().any(|line| line.starts_with("  receive ") && line.ends_with("  gap 30s")), "{text}");
}

#[test]
fn a_connection_is_one_sentence() {
    let made = ConnectionReport {
        reused: true,
        idle_us: 1_200_000,
        peer: Some("10.0.0.7:443".to_owned()),
        protocol: Some("h2"),
        tls: Some(TlsReport {
            version: Some("TLSv1.3".to_owned()),
            resumed: true,
            verified: true,
            ..TlsReport::default()
        }),
        ..ConnectionReport::default()
    };
    let any = ConnectionReport {
        tls: made.tls.clone().map(|tls| TlsReport { resumed: false, verified: false, verify_us: 37, ..tls }),
        ..made.clone()
    };
    assert_eq!(
        connection(Screen::plain(100), &any),
        "  connection  10.0.0.7:443, h2, TLSv1.3, certificate NOT verified, reused after 1.2s idle\n"
    );
    assert_eq!(
        connection(Screen::plain(80), &made),
        "  connection  10.0.0.7:443, h2, TLSv1.3, resumed, reused after 1.2s idle\n"
    );
}

#[test]
fn a_call_that_ends_well_is_one_line() {
    let ok = Report { outcome: "ok", stage: None, limit: None, verdicts: Vec::new(), ..silent_tls() };
    assert_eq!(headline(Screen::plain(80), &ok), "ok in 600ms\n");
}

#[test]
fn a_default_limit_says_how_to_change_it() {
    let limits = Limits::default();
    let fired = limits.wait.as_ref().map(LimitReport::from);
    let text = headline(Screen::plain(80), &Report { limit: fired, ..silent_tls() });
    assert!(text.contains("limit wait 30s, set by default (change it with --limit)"), "{text}");
}
